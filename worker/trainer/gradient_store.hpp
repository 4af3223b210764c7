// The gradients of the step that is worked on: sums of tree nodes for the blocks of a stage, and the reduced gradient
// with the tiles it holds. Every buffer has the geometry of the whole vector; a stage's sum uses its blocks' part of
// it.
//
// What is of one step is given up together (release), or put aside together beside the next one's. A node's buffer that
// is still being sent is never written: a fold puts its result elsewhere.
//
// Thread contract: belongs to the device's thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "kernels/device.hpp"
#include "proto/layout.hpp"
#include "proto/tile_set.hpp"
#include "worker/core/events.hpp"
#include "worker/trainer/buffer_pool.hpp"
#include "worker/trainer/tile_values.hpp"
#include "worker/trainer/tree_reduce.hpp"

namespace planaria {

// The additions that become possible when the slots of a stage that begins at `first` are finished in order and `slot`
// is the latest: what WorkerCore folds then.
[[nodiscard]] std::vector<TreeAddition> fold_cascade(std::uint32_t first, SlotIndex slot);

class GradientStore {
 public:
  GradientStore(Device& device, std::shared_ptr<BufferPool> pool, const StateMap& map, std::uint32_t slots);

  // The step everything from now on belongs to; what is held of another one is given up.
  void enter(Step step);
  void release(Step step);
  // Puts the step's aside, in place of what was; or takes it up again, in place of what is worked on. internal: another
  // step is worked on, or was put aside.
  [[nodiscard]] Status keep(Step step);
  [[nodiscard]] Status return_to(Step step);

  // An accumulator of the blocks for the slot, with no sums in it; one that it had is given up.
  [[nodiscard]] Result<float*> begin_slot(BlockRange blocks, SlotIndex slot);
  [[nodiscard]] Result<float*> slot(BlockRange blocks, SlotIndex slot);

  // A fold of consecutive sums into their last one, element range by element range, so that it can follow the
  // backward pass block by block. Until finish(), the parts stay as nodes.
  struct Fold {
    BlockRange blocks;
    std::vector<TreeNode> parts;  // the additions are parts[0] + (parts[1] + (…))
    std::vector<const float*> sources;
    TreeNode sum;
    Buffer fresh;           // the target when no part may be written
    std::size_t reuse = 0;  // else the part that is
  };
  [[nodiscard]] Result<Fold> begin_fold(BlockRange blocks, std::span<const TreeAddition> chain);
  void fold(Fold& fold, ElementRange elements);
  void finish(Fold fold);

  // Carries out additions in order; those whose sum exists already and whose children are gone were done early.
  [[nodiscard]] Status add(BlockRange blocks, std::span<const TreeAddition> additions);

  struct Input {
    StageNode node;
    std::span<const float> values;  // empty: the own node
    std::vector<TileRange> tiles;   // what the values are of
  };
  [[nodiscard]] Status reduce(std::span<const TileRange> tiles, std::span<const Input> inputs);
  // Values of `tiles`, in order. Tiles that are held already are left alone: they are the same.
  [[nodiscard]] Status store_reduced(std::span<const TileRange> tiles, std::span<const float> values);

  // Errors with `internal` when it isn't there: the core and the trainer disagree.
  [[nodiscard]] Result<ValueSource> lease_node(StageNode node) const;
  [[nodiscard]] Result<ValueSource> lease_reduced() const;
  [[nodiscard]] Result<const float*> reduced() const;

 private:
  using SharedBuffer = std::shared_ptr<Buffer>;

  [[nodiscard]] Status need_reduced();
  // The parts of a range that are not held yet.
  [[nodiscard]] std::vector<TileRange> lacking(TileRange tiles) const;
  [[nodiscard]] ElementRange elements_of(BlockRange blocks) const;
  [[nodiscard]] Result<std::vector<const float*>> take_in(std::span<const Input> inputs);
  [[nodiscard]] Result<const float*> input_values(const Input& input, const float* received, TileRange tiles) const;

  Device& device_;
  const std::shared_ptr<BufferPool> pool_;
  const StateMap& map_;
  const std::uint32_t slots_;
  struct Sums {
    Step step;
    std::map<StageNode, SharedBuffer> nodes;
    SharedBuffer reduced;  // may be a node's
    TileSet held;          // of it
  };
  Sums sums_;
  Sums kept_;
  DeviceBuffer scratch_;
  DeviceBuffer arrivals_;  // received values, where the device can't read the host's memory
};

}  // namespace planaria
