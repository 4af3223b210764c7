// Sets of tiles, kept as the fewest runs in ascending order.
//
// Thread contract: values.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "proto/state_map.hpp"

namespace planaria {

class TileSet {
 public:
  TileSet() = default;
  explicit TileSet(TileRange range) { add(range); }
  // In any order; they may overlap or be empty.
  explicit TileSet(std::span<const TileRange> ranges);

  [[nodiscard]] bool empty() const { return runs_.empty(); }
  [[nodiscard]] std::uint32_t size() const;  // tiles
  [[nodiscard]] const std::vector<TileRange>& runs() const& { return runs_; }
  [[nodiscard]] std::vector<TileRange> runs() && { return std::move(runs_); }

  [[nodiscard]] bool contains(TileIndex tile) const { return contains(TileRange{tile.value(), tile.value() + 1}); }
  [[nodiscard]] bool contains(TileRange range) const;
  [[nodiscard]] bool contains(const TileSet& other) const;
  [[nodiscard]] bool intersects(TileRange range) const;
  [[nodiscard]] bool intersects(const TileSet& other) const;

  void add(TileRange range);
  void add(const TileSet& other);
  void remove(TileRange range);
  void remove(const TileSet& other);

  [[nodiscard]] TileSet common(TileRange range) const;
  [[nodiscard]] TileSet common(const TileSet& other) const;
  [[nodiscard]] TileSet without(const TileSet& other) const;

  bool operator==(const TileSet&) const = default;

 private:
  std::vector<TileRange> runs_;  // none empty, none touching another
};

// Of one tensor's values of the tiles.
[[nodiscard]] std::uint64_t bytes_of(const StateMap& map, const TileSet& tiles);

}  // namespace planaria
