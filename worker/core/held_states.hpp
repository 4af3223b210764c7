// The state that a worker holds, by its step: what it can compute with, serve to others and report.
//
// Thread contract: owned by WorkerCore.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "proto/control.hpp"
#include "proto/duty.hpp"
#include "proto/tile_set.hpp"

namespace planaria {

class HeldStates {
 public:
  // `map` outlives this.
  explicit HeldStates(const StateMap& map) : map_(map) {}

  [[nodiscard]] bool empty() const { return generations_.empty(); }
  [[nodiscard]] bool has(Step stamp) const { return generations_.contains(stamp); }
  [[nodiscard]] const TileSet& state(Step stamp) const;
  [[nodiscard]] const TileSet& parameters(Step stamp) const;  // those of `state` among them
  [[nodiscard]] const std::vector<BlockHash>& hashes(Step stamp) const;
  // Whether it can give them to others; a tied copy also when it holds the original.
  [[nodiscard]] bool can_serve(Step stamp, TileRange tiles, bool parameters_only) const;

  void add_state(Step stamp, const TileSet& tiles);
  void add_parameters(Step stamp, const TileSet& tiles);
  void remove_state(Step stamp, const TileSet& tiles);
  void set_hashes(Step stamp, std::vector<BlockHash> hashes);
  void forget_hashes();
  void drop_before(Step stamp);
  // Of those, the ones without tiles.
  void drop_empty_before(Step stamp);
  // Nothing stays without a stamp. True when something was given up.
  bool keep_only(std::optional<Step> stamp);

  [[nodiscard]] std::vector<HeldState> report() const;

 private:
  struct Generation {
    TileSet state;
    TileSet parameters;
    std::vector<BlockHash> hashes;
  };
  [[nodiscard]] const Generation& find(Step stamp) const;

  const StateMap& map_;
  std::map<Step, Generation> generations_;
};

}  // namespace planaria
