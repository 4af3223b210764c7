// Finishes the canonical tree over sums that lie in memory: own nodes and received ones, an exact cover of the slots.
//
// The whole tree is evaluated for one cache-sized chunk after another, so that intermediate sums never leave the
// cache; runs of additions along the right edge of a subtree become one fused pass. Each element's additions are
// those of finish_tree, in its order, whatever the chunks and threads.
//
// Thread contract: belongs to the thread that owns the device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/result.hpp"
#include "kernels/device.hpp"
#include "proto/layout.hpp"

namespace planaria {

inline constexpr std::size_t kReduceChunk = 32768;  // elements
// Where each chunk is a launch.
inline constexpr std::size_t kLaunchedReduceChunk = std::size_t{4} << 20;

class TreeReducer {
 public:
  // Errors with `corrupt` when the cover isn't exact.
  [[nodiscard]] static Result<TreeReducer> plan(std::span<const TreeNode> cover, std::uint32_t slots);

  // Elements that run() needs as scratch, when it goes through `chunk` at a time.
  [[nodiscard]] std::size_t scratch_elements(std::size_t chunk) const { return scratch_slots_ * chunk; }

  // out = the tree over inputs, where inputs[i] points at the first element of cover[i]'s values. `out` may be none of
  // the inputs. `chunk` changes no bit: sums are made element by element.
  void run(Device& device, std::size_t count, std::span<const float* const> inputs, float* scratch, std::size_t chunk,
           float* out) const;

 private:
  struct Source {
    bool scratch = false;
    std::size_t index = 0;  // of the cover, or of a scratch slot
  };
  struct Fold {
    std::vector<Source> parts;
    std::size_t target = 0;  // scratch slot; the last fold writes to `out`
  };
  std::vector<Fold> folds_;
  std::size_t scratch_slots_ = 0;
};

}  // namespace planaria
