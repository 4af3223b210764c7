#include "common/streaming_copy.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace planaria {
namespace {

TEST(StreamingCopy, CopiesAnyLengthToAndFromAnyPlaceAndNothingElse) {
  std::vector<std::uint8_t> from(1000);
  std::iota(from.begin(), from.end(), std::uint8_t{1});
  for (const std::size_t bytes : {0U, 1U, 15U, 63U, 64U, 65U, 127U, 128U, 200U, 700U}) {
    for (std::size_t source = 0; source < 20; source += 7) {
      for (std::size_t target = 0; target < 80; target += 3) {
        std::vector<std::uint8_t> to(1000, 0), expected = to;
        copy_past_caches(std::as_writable_bytes(std::span(to)).subspan(target, bytes),
                         std::as_bytes(std::span(from)).subspan(source, bytes));
        std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(source), bytes,
                    expected.begin() + static_cast<std::ptrdiff_t>(target));
        ASSERT_EQ(to, expected) << bytes << " bytes from " << source << " to " << target;
      }
    }
  }
}

}  // namespace
}  // namespace planaria
