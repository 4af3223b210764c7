// Symbolic values of the simulated trainer, and the undisturbed run in closed form.
//
// A Term stands for the bits of one tile: the hash of the expression that made it. Two terms are equal exactly when
// the same operations were applied to the same operands in the same order, which is what "the same bits" asks of a
// floating-point program. `finite` is false for expressions that hold a NaN or infinity: they are all alike, as the
// bits of a NaN don't tell where it came from.
//
// Thread contract: values and pure functions; a ReferenceRun belongs to one simulation.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "common/hash.hpp"
#include "common/ids.hpp"
#include "proto/data_message.hpp"
#include "proto/job_spec.hpp"

namespace planaria::sim {

struct Term {
  Hash128 id;
  bool finite = true;
  auto operator<=>(const Term&) const = default;
};
using TermVector = std::vector<Term>;  // one a tile

// What is computed from what; the first word of every expression.
enum class Operation : std::uint64_t { zero, initial, gradient, accumulate, add, norm, update, loss, weights, damage };

[[nodiscard]] Hash128 mix(Operation operation, const Hash128& a, const Hash128& b, std::uint64_t x = 0);

[[nodiscard]] Hash128 digest_of(const TermVector& tiles);
[[nodiscard]] Hash128 digest_of(const TermVector& reduced, const std::vector<SlotLoss>& losses);
[[nodiscard]] Term zero_sum(std::uint32_t tile);
[[nodiscard]] Term add(const Term& left, const Term& right);
// The gradient that one micro-batch adds to every tile's sum; it depends on all parameters.
[[nodiscard]] Term micro_batch_gradient(const Hash128& state, Step step, std::uint32_t micro_batch);
[[nodiscard]] Term accumulate(const Term& sum, const Term& gradient);
[[nodiscard]] Term updated(const Term& state, const Term& reduced, const Hash128& norm, Step step);
[[nodiscard]] Hash128 norm_of(const TermVector& reduced);
[[nodiscard]] double number_of(const Hash128& id);  // in [0, 1), for losses and norms
[[nodiscard]] Hash128 weights_of(const TermVector& state);

struct JobShape {
  std::uint32_t tiles = 1;
  std::uint32_t slots = 1;
  std::uint32_t micro_batches_per_slot = 1;
  Step total_steps;
  std::uint32_t evaluate_every = 0;
  std::uint64_t seed = 1;
  NonfinitePolicy nonfinite = NonfinitePolicy::skip;
  std::optional<Step> natural_nan;  // a step whose gradient is nonfinite whoever computes it

  // In natural_nan's step one micro-batch is to blame.
  [[nodiscard]] bool nonfinite_by_nature(Step step, std::uint32_t micro_batch) const {
    return natural_nan == step && micro_batch == step.value() % (slots * micro_batches_per_slot);
  }
};

[[nodiscard]] SlotLoss loss_of(const JobShape& shape, const Hash128& state, Step step, std::uint32_t slot);

// What every correct run must hold, step by step; computed as far as asked for.
class ReferenceRun {
 public:
  explicit ReferenceRun(const JobShape& shape);

  [[nodiscard]] const TermVector& state(Step step);
  [[nodiscard]] const Hash128& state_digest(Step step);
  // The mean loss that the step publishes, before the division by its tokens.
  [[nodiscard]] double loss(Step step);
  [[nodiscard]] std::vector<SlotLoss> losses(Step step);

 private:
  void extend(Step step);

  JobShape shape_;
  // Deques: references that were given out stay good.
  std::deque<TermVector> states_;
  std::deque<Hash128> digests_;
};

}  // namespace planaria::sim
