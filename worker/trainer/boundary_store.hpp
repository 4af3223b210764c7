// What crossed the borders of this worker's stages in the step that is worked on, and in one that was put aside: a
// stage next to them that somebody takes over asks for it again.
//
// Thread contract: belongs to the device's thread.
#pragma once

#include <map>
#include <memory>

#include "common/ids.hpp"
#include "common/result.hpp"
#include "proto/data_message.hpp"
#include "worker/trainer/buffer_pool.hpp"
#include "worker/trainer/tile_values.hpp"

namespace planaria {

class BoundaryStore {
 public:
  // The pool's buffers hold one boundary each.
  explicit BoundaryStore(std::shared_ptr<BufferPool> pool) : pool_(std::move(pool)) {}

  // The step everything from now on belongs to; what is held of another one is given up.
  void enter(Step step);
  void release(Step step);
  // Puts what is held of the step aside, in place of what was; or takes it up again, in place of what is held.
  void keep(Step step);
  void return_to(Step step);

  // Memory for a boundary that is about to be made; one with its name is given up.
  [[nodiscard]] Result<float*> make(const BoundaryId& id);
  // Errors with `internal` when it isn't there: the core and the trainer disagree.
  [[nodiscard]] Result<const float*> find(const BoundaryId& id) const;
  [[nodiscard]] Result<ValueSource> lease(const BoundaryId& id) const;

 private:
  const std::shared_ptr<BufferPool> pool_;
  Step step_;
  std::map<BoundaryId, Buffer> held_;
  Step kept_step_;
  std::map<BoundaryId, Buffer> kept_;
};

}  // namespace planaria
