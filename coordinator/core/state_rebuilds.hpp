// Which tiles of a state that nobody holds can be made from fragments of snapshots, and from whose.
//
// Thread contract: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "proto/snapshot_message.hpp"
#include "proto/state_map.hpp"
#include "proto/tile_set.hpp"

namespace planaria {

class StateRebuilds {
 public:
  // Of the state after one step. `map` outlives this.
  StateRebuilds(const StateMap& map, Step stamp) : map_(map), stamp_(stamp) {}

  // What each holder tells; a data fragment is there where one holds all its tiles. Fragments of other steps, and those
  // whose stripe contradicts what was told of it before or makes no sense, are left out.
  void add_state(WorkerId holder, const TileSet& tiles);
  void add_fragment(WorkerId holder, const HeldFragment& held);

  // Tiles that nobody holds and that can be made.
  [[nodiscard]] TileSet possible() const;
  // Who makes which of the tiles that it needs, as far as possible. Sources that have given less are asked first.
  [[nodiscard]] std::vector<FragmentRebuild> plan(const std::map<WorkerId, TileSet>& needs) const;

 private:
  struct Group {
    Stripe layout;
    std::map<std::uint32_t, std::vector<WorkerId>> parity;  // holders, by fragment
  };
  using Key = std::pair<ViewNumber, std::uint32_t>;  // the layout's view, stripe
  // Holders of each fragment that is there; zeros have none and are always there. Nothing: too few of them are.
  using Available = std::map<std::uint32_t, std::vector<WorkerId>>;
  [[nodiscard]] std::optional<Available> available(const Group& group) const;
  // Tiles of its data that nobody holds. Most groups have none, and need no further look.
  [[nodiscard]] TileSet lost(const Group& group) const;

  const StateMap& map_;
  const Step stamp_;
  std::map<WorkerId, TileSet> holders_;
  TileSet held_;
  std::map<Key, Group> groups_;
};

}  // namespace planaria
