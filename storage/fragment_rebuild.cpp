#include "storage/fragment_rebuild.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "storage/erasure_code.hpp"

namespace planaria {

Result<std::vector<std::byte>> rebuild_fragment(const Stripe& stripe, std::uint32_t lost, std::uint64_t bytes,
                                                std::span<const RebuildInput> inputs) {
  PLANARIA_ASSIGN(const ErasureCode code, ErasureCode::make(stripe.data, stripe.parity()));
  std::vector<unsigned> from;
  std::vector<std::vector<std::byte>> padded;  // of inputs that are in parts, or end early
  std::vector<FragmentBytes> given;
  padded.reserve(stripe.data + inputs.size());
  const auto pad = [&](const std::vector<std::span<const std::byte>>& parts) -> Status {
    std::vector<std::byte>& whole = padded.emplace_back();
    whole.reserve(bytes);
    for (const auto& part : parts) whole.insert(whole.end(), part.begin(), part.end());
    if (whole.size() > bytes) return Error(ErrorCode::invalid_argument, "a fragment of more bytes than asked for");
    whole.resize(bytes);
    given.emplace_back(whole);
    return ok_status();
  };
  for (std::uint32_t i = 0; i < stripe.data; ++i) {
    if (!stripe.is_zeros(i)) continue;
    from.push_back(i);
    PLANARIA_TRY(pad({}));
  }
  for (const RebuildInput& input : inputs) {
    from.push_back(input.fragment);
    if (input.parts.size() == 1 && input.parts.front().size() == bytes) {
      given.push_back(input.parts.front());
    } else {
      PLANARIA_TRY(pad(input.parts));
    }
  }
  PLANARIA_ASSIGN(const FragmentSums sums, code.rebuild(from, std::span(&lost, 1)));
  std::vector<std::byte> made(bytes);
  const FragmentBuffer to(made);
  sums.write(given, std::span(&to, 1));
  return made;
}

Status check_made(const StateMap& map, std::span<const TileRange> tiles, std::span<const std::byte> made,
                  std::span<const Hash128> hashes) {
  for (const TileRange run : tiles) {
    for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
      const std::uint64_t bytes = kTensorsOfState * map.bytes({tile, tile + 1});
      if (bytes > made.size() || hashes.empty()) {
        return Error(ErrorCode::corrupt, "state made again of fewer bytes or hashes than its tiles have");
      }
      if (hash_bytes(made.first(bytes)) != hashes.front()) {
        return Error(ErrorCode::corrupt, fmt::format("tile {} made again from fragments has another hash than its "
                                                     "owner's",
                                                     tile));
      }
      made = made.subspan(bytes);
      hashes = hashes.subspan(1);
    }
  }
  if (made.empty() && hashes.empty()) return ok_status();
  return Error(ErrorCode::corrupt, "state made again of more bytes or hashes than its tiles have");
}

}  // namespace planaria
