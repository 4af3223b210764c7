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
#include <memory>
#include <optional>
#include <vector>

#include "common/hash.hpp"
#include "common/ids.hpp"
#include "proto/control.hpp"
#include "proto/data_message.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"

namespace planaria::sim {

struct Term {
  Hash128 id;
  bool finite = true;
  auto operator<=>(const Term&) const = default;
};
using TermVector = std::vector<Term>;  // one a tile

// What is computed from what; the first word of every expression.
enum class Operation : std::uint64_t {
  zero,
  initial,
  tokens,
  forward,
  backward,
  gradient,
  accumulate,
  add,
  norm,
  update,
  loss,
  weights,
  damage
};

[[nodiscard]] Hash128 mix(Operation operation, const Hash128& a, const Hash128& b, std::uint64_t x = 0);

[[nodiscard]] Term zero_sum(std::uint32_t tile);
[[nodiscard]] Term add(const Term& left, const Term& right);

// A micro-batch on its way through the blocks, whose parameters are told by their digests. What enters the first block:
[[nodiscard]] Term training_tokens(Step step, std::uint32_t micro_batch);
[[nodiscard]] Term validation_tokens(std::uint32_t micro_batch);
[[nodiscard]] Term forward_through(const Hash128& parameters, const Term& input);
// Of the head: what its backward pass begins from, and the loss that it stands for.
[[nodiscard]] Term loss_term(const Hash128& parameters, const Term& input);
[[nodiscard]] Term backward_through(const Hash128& parameters, const Term& input, const Term& d_output);
// What the micro-batch adds to the sum of every tile of the block.
[[nodiscard]] Term block_gradient(const Hash128& parameters, const Term& input, const Term& d_output);

[[nodiscard]] Term accumulate(const Term& sum, const Term& gradient);
[[nodiscard]] Term updated(const Term& state, const Term& reduced, const Hash128& norm, Step step);
[[nodiscard]] double number_of(const Hash128& id);         // in [0, 1), for losses and norms
[[nodiscard]] double sum_of_squares(const Term& reduced);  // a number, or NaN
[[nodiscard]] Hash128 norm_of(const std::vector<double>& sums);

struct JobShape {
  std::shared_ptr<const StateMap> map;
  std::uint32_t tiles = 1;
  std::vector<TileRange> blocks;       // the last one is the head
  std::vector<std::uint32_t> tensors;  // exported ones, of each block
  std::uint32_t evaluated = 0;         // validation micro-batches of an evaluation
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

// The digest of each block's parameters.
[[nodiscard]] std::vector<Hash128> block_digests(const JobShape& shape, const TermVector& state);
[[nodiscard]] Hash128 block_digest(const JobShape& shape, const TermVector& state, std::uint32_t block);
// What workers that hold the block compare, and what stands for its exported tensors.
[[nodiscard]] BlockHash block_hash(const JobShape& shape, const TermVector& state, std::uint32_t block);
[[nodiscard]] BlockWeights block_weights(const JobShape& shape, const TermVector& state, std::uint32_t block);
// The gradient that a tile with state is updated with: its own and that of its tied copy.
[[nodiscard]] Term whole_gradient(const StateMap& map, const TermVector& reduced, std::uint32_t tile);
void fill_tied(const StateMap& map, TermVector& state);

// What every correct run must hold, step by step; computed as far as asked for.
class ReferenceRun {
 public:
  explicit ReferenceRun(const JobShape& shape);

  [[nodiscard]] const TermVector& state(Step step);
  // The mean loss that the step publishes, before the division by its tokens.
  [[nodiscard]] double loss(Step step);
  [[nodiscard]] std::vector<SlotLoss> losses(Step step);

 private:
  void extend(Step step);
  void add_micro_batch(Step step, std::uint32_t micro_batch, TermVector& sums) const;

  JobShape shape_;
  // Deques: references that were given out stay good.
  std::deque<TermVector> states_;
  std::deque<std::vector<Hash128>> block_digests_;
};

}  // namespace planaria::sim
