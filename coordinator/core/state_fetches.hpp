// Who gets what it lacks of a state from whom.
//
// Thread contract: pure functions.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <vector>

#include "proto/layout.hpp"
#include "proto/tile_set.hpp"

namespace planaria {

// Tiles of one state.
struct HeldTiles {
  TileSet state;       // master and moments
  TileSet parameters;  // those of `state` among them, and tied copies that follow from them
};

struct StateNeed {
  WorkerId worker;
  TileSet state;
  TileSet parameters;                   // beside those of `state`
  std::optional<WorkerId> keeper = {};  // of its host
};

// From peers (`sources`: what they hold) each need is met by the host's keeper as far as it has the state, and else by
// all who hold it, each an equal run of tiles. From a
// checkpoint (`sources`: what those that can read it would find there) who can read it loads what it needs itself and
// what the others ask it for. The initial state everybody makes itself.
[[nodiscard]] std::vector<StateFetch> plan_state_fetches(StateSource source, std::span<const StateNeed> needs,
                                                         const std::map<WorkerId, HeldTiles>& sources);

}  // namespace planaria
