#include "proto/snapshot_layout.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

namespace planaria {
namespace {

// Hosts of each zone at even distances, so that neighbours are of different zones as far as that goes.
std::vector<const ProtectedHost*> ring_of(std::span<const ProtectedHost> hosts) {
  std::map<std::string, std::vector<const ProtectedHost*>> zones;
  for (const ProtectedHost& host : hosts) zones[host.zone].push_back(&host);
  struct Place {
    std::uint64_t half_steps, count;  // (2 i + 1) of 2 n: where the zone's i-th of n hosts stands
    const ProtectedHost* host;
  };
  std::vector<Place> places;
  for (const auto& [zone, members] : zones) {
    for (std::size_t i = 0; i < members.size(); ++i) places.push_back({2 * i + 1, members.size(), members[i]});
  }
  std::ranges::stable_sort(
      places, [](const Place& a, const Place& b) { return a.half_steps * b.count < b.half_steps * a.count; });
  std::vector<const ProtectedHost*> ring;
  for (const Place& place : places) ring.push_back(place.host);
  return ring;
}

// Runs of about the same bytes, cut between tiles.
std::vector<std::vector<TileRange>> split_tiles(const StateMap& map, const TileSet& tiles, std::uint32_t parts) {
  const std::uint64_t all = bytes_of(map, tiles);
  std::vector<TileSet> sets;
  std::uint64_t before = 0;
  for (const TileRange& run : tiles.runs()) {
    for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
      const std::uint64_t bytes = map.bytes({tile, tile + 1});
      const std::uint64_t middle = 2 * before + bytes;  // twice: by its middle a tile belongs to one part
      const std::uint64_t part = std::min<std::uint64_t>(parts - 1, middle * parts / (2 * all));
      while (sets.size() <= part) sets.emplace_back();
      sets.back().add({tile, tile + 1});
      before += bytes;
    }
  }
  std::vector<std::vector<TileRange>> split;
  for (TileSet& set : sets) split.push_back(std::move(set).runs());
  split.resize(parts);
  return split;
}

// Of which the data could be made.
std::uint32_t usable(const Stripe& stripe, const std::vector<bool>& present) {
  std::uint32_t count = 0;
  for (std::size_t i = 0; i < stripe.fragments.size(); ++i) count += present[i] || stripe.is_zeros(i) ? 1 : 0;
  return count;
}

}  // namespace

SnapshotLayout place_snapshots(const StateMap& map, std::span<const ProtectedHost> hosts, SnapshotShape shape) {
  SnapshotLayout layout;
  if (hosts.empty()) return layout;
  const auto count = static_cast<std::uint32_t>(hosts.size());
  const std::uint32_t parity = std::min(shape.parity, count - 1);
  const std::uint32_t data = parity == 0 ? 1 : std::min(shape.data, count - parity);
  const auto ring = ring_of(hosts);
  layout.stripes.resize(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    Stripe& stripe = layout.stripes[i];
    stripe.data = data;
    for (std::uint32_t j = 0; j < data + parity; ++j) stripe.fragments.push_back({ring[(i + j) % count]->keeper, {}});
  }
  for (std::uint32_t at = 0; at < count; ++at) {
    auto parts = split_tiles(map, ring[at]->tiles, data);
    for (std::uint32_t j = 0; j < data; ++j) {
      layout.stripes[(at + count - j) % count].fragments[j].tiles = std::move(parts[j]);
    }
  }
  std::erase_if(layout.stripes, [&](const Stripe& stripe) { return stripe_bytes(map, stripe) == 0; });
  return layout;
}

std::uint64_t fragment_bytes(const StateMap& map, const StripeFragment& fragment) {
  std::uint64_t bytes = 0;
  for (const TileRange& run : fragment.tiles) bytes += kTensorsOfState * map.bytes(run);
  return bytes;
}

std::uint64_t stripe_bytes(const StateMap& map, const Stripe& stripe) {
  std::uint64_t longest = 0;
  for (const StripeFragment& fragment : stripe.fragments) longest = std::max(longest, fragment_bytes(map, fragment));
  return longest;
}

std::vector<TilePiece> pieces_of(const StateMap& map, std::span<const TileRange> tiles, std::uint64_t offset,
                                 std::uint64_t bytes) {
  std::vector<TilePiece> pieces;
  for (const TileRange& run : tiles) {
    for (std::uint32_t tile = run.begin; tile < run.end && bytes > 0; ++tile) {
      const std::uint64_t of_vector = map.bytes({tile, tile + 1});
      for (std::uint32_t vector = 0; vector < kTensorsOfState && bytes > 0; ++vector) {
        if (offset >= of_vector) {
          offset -= of_vector;
          continue;
        }
        const std::uint64_t taken = std::min(bytes, of_vector - offset);
        pieces.push_back({tile, vector, offset, taken});
        offset = 0;
        bytes -= taken;
      }
    }
  }
  return pieces;
}

std::vector<std::uint32_t> tiles_beginning(const StateMap& map, std::span<const TileRange> tiles, std::uint64_t offset,
                                           std::uint64_t bytes) {
  std::vector<std::uint32_t> beginning;
  std::uint64_t at = 0;
  for (const TileRange& run : tiles) {
    for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
      if (at >= offset && at - offset >= bytes) return beginning;
      if (at >= offset) beginning.push_back(tile);
      at += kTensorsOfState * map.bytes({tile, tile + 1});
    }
  }
  return beginning;
}

TileSet tiles_of(const SnapshotLayout& layout, WorkerId keeper) {
  TileSet tiles;
  for (const Stripe& stripe : layout.stripes) {
    for (const StripeFragment& fragment : stripe.fragments) {
      if (fragment.keeper == keeper) tiles.add(TileSet(fragment.tiles));
    }
  }
  return tiles;
}

TileSet tiles_of(const SnapshotLayout& layout) {
  TileSet tiles;
  for (const Stripe& stripe : layout.stripes) {
    for (const StripeFragment& fragment : stripe.fragments) tiles.add(TileSet(fragment.tiles));
  }
  return tiles;
}

std::uint64_t snapshot_memory(const StateMap& map, const SnapshotLayout& layout, WorkerId keeper, bool durable) {
  constexpr std::uint64_t kGenerations = 3;
  std::uint64_t bytes = 0;
  for (const Stripe& stripe : layout.stripes) {
    const std::uint64_t longest = stripe_bytes(map, stripe);
    for (std::uint32_t i = 0; i < stripe.fragments.size(); ++i) {
      if (stripe.fragments[i].keeper != keeper) continue;
      if (i < stripe.data) {
        bytes += (kGenerations + (durable ? 1 : 0)) * fragment_bytes(map, stripe.fragments[i]);
      } else {
        bytes += kGenerations * longest;
      }
      if (i == stripe.data) bytes += (stripe.parity() - 1) * longest;
    }
  }
  return bytes;
}

bool recoverable(const Stripe& stripe, const std::vector<bool>& present) {
  bool whole = true;
  for (std::size_t i = 0; i < stripe.data; ++i) whole = whole && (present[i] || stripe.is_zeros(i));
  return whole || usable(stripe, present) >= stripe.data;
}

std::uint32_t tolerated_losses(const SnapshotLayout& layout, const std::vector<std::vector<bool>>& present) {
  std::optional<std::uint32_t> least;
  for (std::size_t s = 0; s < layout.stripes.size(); ++s) {
    const Stripe& stripe = layout.stripes[s];
    const std::uint32_t spare = std::max(usable(stripe, present[s]), stripe.data) - stripe.data;
    least = std::min(least.value_or(spare), spare);
  }
  return least.value_or(0);
}

Status check_snapshot_layout(const SnapshotLayout& layout, const StateMap& map) {
  const auto refuse = [](const char* why) { return Error(ErrorCode::invalid_argument, why); };
  TileSet seen;
  for (const Stripe& stripe : layout.stripes) {
    if (stripe.data == 0 || stripe.data > stripe.fragments.size()) return refuse("a stripe without data");
    if (stripe.fragments.size() > kMaxFragments) return refuse("a stripe of too many fragments");
    std::set<WorkerId> keepers;
    for (std::size_t i = 0; i < stripe.fragments.size(); ++i) {
      const StripeFragment& fragment = stripe.fragments[i];
      if (!keepers.insert(fragment.keeper).second) return refuse("two fragments of a stripe at one keeper");
      if (i >= stripe.data && !fragment.tiles.empty()) return refuse("parity that names tiles");
      for (const TileRange& run : fragment.tiles) {
        if (run.empty() || !TileSet(map.tiles_with_state()).contains(run)) return refuse("tiles without state");
        if (seen.intersects(run)) return refuse("a tile in two fragments");
        seen.add(run);
      }
    }
  }
  return ok_status();
}

}  // namespace planaria
