#include "common/streaming_copy.hpp"

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace planaria {

void copy_past_caches(std::span<std::byte> to, std::span<const std::byte> from) {
#ifdef __SSE2__
  constexpr std::size_t kLine = 64;
  const std::size_t before = -reinterpret_cast<std::uintptr_t>(to.data()) % kLine;  // up to a whole line
  if (from.size() >= before + kLine) {
    std::memcpy(to.data(), from.data(), before);
    std::size_t at = before;
    for (; at + kLine <= from.size(); at += kLine) {
      const auto* const source = reinterpret_cast<const __m128i*>(from.data() + at);
      auto* const target = reinterpret_cast<__m128i*>(to.data() + at);
      const __m128i a = _mm_loadu_si128(source), b = _mm_loadu_si128(source + 1);
      const __m128i c = _mm_loadu_si128(source + 2), d = _mm_loadu_si128(source + 3);
      _mm_stream_si128(target, a);
      _mm_stream_si128(target + 1, b);
      _mm_stream_si128(target + 2, c);
      _mm_stream_si128(target + 3, d);
    }
    _mm_sfence();
    to = to.subspan(at);
    from = from.subspan(at);
  }
#endif
  if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
}

}  // namespace planaria
