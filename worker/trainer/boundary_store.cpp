#include "worker/trainer/boundary_store.hpp"

#include <string>
#include <utility>

namespace planaria {

namespace {

Error missing(const BoundaryId& id) {
  return {ErrorCode::internal, std::string(id.kind == BoundaryKind::activation ? "the activation" : "the gradient") +
                                   " below block " + std::to_string(id.block) + " of slot " +
                                   std::to_string(id.item.slot) + ", micro-batch " + std::to_string(id.item.position) +
                                   ", isn't held by the trainer"};
}

}  // namespace

void BoundaryStore::enter(Step step) {
  if (step_ == step) return;
  held_.clear();
  step_ = step;
}

void BoundaryStore::release(Step step) {
  if (step_ == step) held_.clear();
  if (kept_step_ == step) kept_.clear();
}

void BoundaryStore::keep(Step step) {
  kept_.clear();
  if (step_ == step) kept_ = std::exchange(held_, {});
  kept_step_ = step;
}

void BoundaryStore::return_to(Step step) {
  held_.clear();
  if (kept_step_ == step) held_ = std::exchange(kept_, {});
  step_ = step;
}

Result<float*> BoundaryStore::make(const BoundaryId& id) {
  held_.erase(id);
  PLANARIA_ASSIGN(Buffer buffer, pool_->take());
  float* values = buffer.floats();
  held_[id] = std::move(buffer);
  return values;
}

Result<const float*> BoundaryStore::find(const BoundaryId& id) const {
  const auto found = held_.find(id);
  if (found == held_.end()) return missing(id);
  return found->second.floats();
}

Result<ValueSource> BoundaryStore::lease(const BoundaryId& id) const {
  const auto found = held_.find(id);
  if (found == held_.end()) return missing(id);
  return ValueSource{found->second.floats(), found->second.lease()};
}

}  // namespace planaria
