#include "proto/tile_set.hpp"

#include <gtest/gtest.h>

#include <random>

namespace planaria {
namespace {

constexpr std::uint32_t kTiles = 40;

// The same set, the slow way.
class Model {
 public:
  void add(TileRange range) { fill(range, true); }
  void remove(TileRange range) { fill(range, false); }
  [[nodiscard]] bool at(std::uint32_t tile) const { return held_[tile]; }

 private:
  void fill(TileRange range, bool value) {
    for (std::uint32_t tile = range.begin; tile < range.end; ++tile) held_[tile] = value;
  }
  std::vector<bool> held_ = std::vector<bool>(kTiles, false);
};

class Draw {
 public:
  explicit Draw(std::uint32_t seed) : random_(seed) {}
  TileRange range() {
    const std::uint32_t a = random_() % (kTiles + 1);
    const std::uint32_t b = random_() % (kTiles + 1);
    return {std::min(a, b), std::max(a, b)};
  }
  bool coin() { return random_() % 2 == 0; }

 private:
  std::mt19937 random_;
};

void expect_same(const TileSet& set, const Model& model) {
  std::uint32_t size = 0;
  for (std::uint32_t tile = 0; tile < kTiles; ++tile) {
    EXPECT_EQ(set.contains(TileIndex(tile)), model.at(tile)) << tile;
    size += model.at(tile) ? 1 : 0;
  }
  EXPECT_EQ(set.size(), size);
  for (std::size_t i = 1; i < set.runs().size(); ++i) EXPECT_LT(set.runs()[i - 1].end, set.runs()[i].begin);
}

TEST(TileSet, AnswersLikeASetOfSingleTiles) {
  for (std::uint32_t seed = 0; seed < 50; ++seed) {
    Draw draw(seed);
    TileSet a, b;
    Model model_a, model_b;
    for (int i = 0; i < 12; ++i) {
      const TileRange range = draw.range();
      const bool adds = draw.coin();
      TileSet& set = draw.coin() ? a : b;
      Model& model = &set == &a ? model_a : model_b;
      adds ? set.add(range) : set.remove(range);
      adds ? model.add(range) : model.remove(range);
    }
    expect_same(a, model_a);
    expect_same(b, model_b);
    Model common, without;
    bool meets = false;
    for (std::uint32_t tile = 0; tile < kTiles; ++tile) {
      if (model_a.at(tile) && model_b.at(tile)) common.add({tile, tile + 1});
      if (model_a.at(tile) && !model_b.at(tile)) without.add({tile, tile + 1});
      meets = meets || (model_a.at(tile) && model_b.at(tile));
    }
    expect_same(a.common(b), common);
    expect_same(a.without(b), without);
    EXPECT_EQ(a.intersects(b), meets);
    EXPECT_EQ(a.contains(b), b.without(a).empty());
    EXPECT_EQ(TileSet(b.runs()), b);
  }
}

}  // namespace
}  // namespace planaria
