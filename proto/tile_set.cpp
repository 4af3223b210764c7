#include "proto/tile_set.hpp"

#include <algorithm>

namespace planaria {

TileSet::TileSet(std::span<const TileRange> ranges) {
  for (const TileRange& range : ranges) add(range);
}

std::uint32_t TileSet::size() const {
  std::uint32_t tiles = 0;
  for (const TileRange& run : runs_) tiles += run.end - run.begin;
  return tiles;
}

bool TileSet::contains(TileRange range) const {
  if (range.empty()) return true;
  const auto after = std::ranges::upper_bound(runs_, range.begin, {}, &TileRange::begin);
  return after != runs_.begin() && range.end <= std::prev(after)->end;
}

bool TileSet::contains(const TileSet& other) const {
  return std::ranges::all_of(other.runs_, [this](TileRange run) { return contains(run); });
}

bool TileSet::intersects(TileRange range) const {
  const auto first = std::ranges::upper_bound(runs_, range.begin, {}, &TileRange::end);
  return !range.empty() && first != runs_.end() && first->begin < range.end;
}

bool TileSet::intersects(const TileSet& other) const {
  return std::ranges::any_of(other.runs_, [this](TileRange run) { return intersects(run); });
}

void TileSet::add(TileRange range) {
  if (range.empty()) return;
  // Those that touch it become one with it.
  const auto first = std::ranges::lower_bound(runs_, range.begin, {}, &TileRange::end);
  auto last = first;
  for (; last != runs_.end() && last->begin <= range.end; ++last) {
    range.begin = std::min(range.begin, last->begin);
    range.end = std::max(range.end, last->end);
  }
  runs_.insert(runs_.erase(first, last), range);
}

void TileSet::add(const TileSet& other) {
  for (const TileRange& run : other.runs_) add(run);
}

void TileSet::remove(TileRange range) {
  if (range.empty()) return;
  std::vector<TileRange> left;
  for (const TileRange& run : runs_) {
    const TileRange before{run.begin, std::min(run.end, range.begin)};
    const TileRange after{std::max(run.begin, range.end), run.end};
    if (!before.empty()) left.push_back(before);
    if (!after.empty()) left.push_back(after);
  }
  runs_ = std::move(left);
}

void TileSet::remove(const TileSet& other) {
  for (const TileRange& run : other.runs_) remove(run);
}

TileSet TileSet::common(TileRange range) const {
  TileSet both;
  for (const TileRange& run : runs_) both.add({std::max(run.begin, range.begin), std::min(run.end, range.end)});
  return both;
}

TileSet TileSet::common(const TileSet& other) const {
  TileSet both;
  for (const TileRange& run : other.runs_) both.add(common(run));
  return both;
}

TileSet TileSet::without(const TileSet& other) const {
  TileSet left = *this;
  left.remove(other);
  return left;
}

std::uint64_t bytes_of(const StateMap& map, const TileSet& tiles) {
  std::uint64_t bytes = 0;
  for (const TileRange run : tiles.runs()) bytes += map.bytes(run);
  return bytes;
}

}  // namespace planaria
