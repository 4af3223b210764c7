#include "chaos/sim/terms.hpp"

#include <array>
#include <span>

#include "worker/core/evaluation.hpp"

namespace planaria::sim {
namespace {

// Hashes of a few words: multiply and fold, as XXH3 does for short inputs. Collisions at 2^-64 are good enough here.
std::uint64_t fold(std::uint64_t a, std::uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

constexpr std::uint64_t kSecret[4] = {0x9e3779b97f4a7c15ULL, 0xd6e8feb86659fd93ULL, 0xa0761d6478bd642fULL,
                                      0xe7037ed1a0b428dbULL};

Term nonfinite() {
  return {{kSecret[0], kSecret[1]}, false};
}

}  // namespace

Hash128 mix(Operation operation, const Hash128& a, const Hash128& b, std::uint64_t x) {
  const std::uint64_t op = static_cast<std::uint64_t>(operation) + 1;
  std::uint64_t low = fold(a.low ^ kSecret[0], a.high ^ kSecret[1] ^ op);
  low = fold(low ^ b.low ^ kSecret[2], b.high ^ kSecret[3] ^ x);
  std::uint64_t high = fold(a.high ^ kSecret[2] ^ op, a.low ^ kSecret[3]);
  high = fold(high ^ b.high ^ kSecret[1] ^ x, b.low ^ kSecret[0]);
  return {fold(high ^ kSecret[3], low ^ kSecret[0]), fold(low ^ kSecret[1], high ^ kSecret[2])};
}

Hash128 digest_of(const TermVector& tiles) {
  Hash128 digest;
  for (const Term& tile : tiles) digest = mix(Operation::norm, digest, tile.id, tile.finite ? 1 : 2);
  return digest;
}

Hash128 digest_of(const TermVector& reduced, const std::vector<SlotLoss>& losses) {
  Hash128 digest = digest_of(reduced);
  for (const SlotLoss& loss : losses) {
    std::uint64_t bits = 0;
    static_assert(sizeof bits == sizeof loss.train);
    __builtin_memcpy(&bits, &loss.train, sizeof bits);
    digest = mix(Operation::loss, digest, {loss.slot.value(), bits});
  }
  return digest;
}

Term zero_sum(std::uint32_t tile) {
  return {mix(Operation::zero, {}, {}, tile)};
}

Term add(const Term& left, const Term& right) {
  if (!left.finite || !right.finite) return nonfinite();
  return {mix(Operation::add, left.id, right.id)};
}

Term training_tokens(Step step, std::uint32_t micro_batch) {
  return {mix(Operation::tokens, {step.value(), micro_batch}, {})};
}

Term validation_tokens(std::uint32_t micro_batch) {
  return {mix(Operation::tokens, {0, micro_batch}, {})};
}

Term forward_through(const Hash128& parameters, const Term& input) {
  return {mix(Operation::forward, parameters, input.id)};
}

Term loss_term(const Hash128& parameters, const Term& input) {
  return {mix(Operation::loss, parameters, input.id)};
}

Term backward_through(const Hash128& parameters, const Term& input, const Term& d_output) {
  return {mix(Operation::backward, mix(Operation::backward, parameters, input.id), d_output.id)};
}

Term block_gradient(const Hash128& parameters, const Term& input, const Term& d_output) {
  return {mix(Operation::gradient, mix(Operation::gradient, parameters, input.id), d_output.id)};
}

Term accumulate(const Term& sum, const Term& gradient) {
  if (!sum.finite || !gradient.finite) return nonfinite();
  return {mix(Operation::accumulate, sum.id, gradient.id)};
}

Hash128 norm_of(const TermVector& reduced) {
  return mix(Operation::norm, digest_of(reduced), {});
}

Term updated(const Term& state, const Term& reduced, const Hash128& norm, Step step) {
  return {mix(Operation::update, mix(Operation::update, state.id, reduced.id), norm, step.value()),
          state.finite && reduced.finite};
}

double number_of(const Hash128& id) {
  return static_cast<double>(id.low >> 11) * 0x1.0p-53;
}

Hash128 weights_of(const TermVector& state) {
  return mix(Operation::weights, digest_of(state), {});
}

Hash128 block_digest(const JobShape& shape, const TermVector& state, std::uint32_t block) {
  Hash128 digest;
  for (std::uint32_t tile = shape.blocks[block].begin; tile < shape.blocks[block].end; ++tile) {
    digest = mix(Operation::norm, digest, state[tile].id, state[tile].finite ? 1 : 2);
  }
  return digest;
}

std::vector<Hash128> block_digests(const JobShape& shape, const TermVector& state) {
  std::vector<Hash128> digests;
  for (std::uint32_t block = 0; block < shape.blocks.size(); ++block) {
    digests.push_back(block_digest(shape, state, block));
  }
  return digests;
}

ReferenceRun::ReferenceRun(const JobShape& shape) : shape_(shape) {
  TermVector initial(shape.tiles);
  for (std::uint32_t tile = 0; tile < shape.tiles; ++tile) {
    initial[tile].id = mix(Operation::initial, {shape.seed, tile}, {});
  }
  digests_.push_back(digest_of(initial));
  block_digests_.push_back(block_digests(shape_, initial));
  states_.push_back(std::move(initial));
}

const TermVector& ReferenceRun::state(Step step) {
  extend(step);
  return states_[step.value()];
}

const Hash128& ReferenceRun::state_digest(Step step) {
  extend(step);
  return digests_[step.value()];
}

std::vector<SlotLoss> ReferenceRun::losses(Step step) {
  extend(step.previous());
  const std::vector<Hash128>& parameters = block_digests_[step.previous().value()];
  const auto loss = [&](Term term) {
    for (std::size_t block = 0; block + 1 < parameters.size(); ++block) term = forward_through(parameters[block], term);
    return number_of(loss_term(parameters.back(), term).id);
  };
  const bool evaluation = evaluates(step, shape_.evaluate_every, shape_.total_steps);
  std::vector<SlotLoss> losses;
  for (std::uint32_t slot = 0; slot < shape_.slots; ++slot) {
    losses.push_back({.slot = SlotIndex(slot)});
    const std::uint32_t first = slot * shape_.micro_batches_per_slot;
    for (std::uint32_t k = 0; k < shape_.micro_batches_per_slot && step <= shape_.total_steps; ++k) {
      losses.back().train += loss(training_tokens(step, first + k));
    }
    const SlotRange riding = evaluation_batches_of(SlotIndex(slot), shape_.slots, evaluation ? shape_.evaluated : 0);
    for (std::uint32_t k = riding.begin; k < riding.end; ++k) losses.back().validation += loss(validation_tokens(k));
  }
  return losses;
}

double ReferenceRun::loss(Step step) {
  std::vector<std::optional<SlotLoss>> slots;
  for (const SlotLoss& loss : losses(step)) slots.emplace_back(loss);
  double train = 0;
  double validation = 0;
  fold_losses(slots, train, validation);
  return train;
}

void ReferenceRun::add_micro_batch(Step step, std::uint32_t micro_batch, TermVector& sums) const {
  const std::vector<Hash128>& parameters = block_digests_.back();
  std::vector<Term> inputs{training_tokens(step, micro_batch)};
  for (std::size_t block = 0; block + 1 < parameters.size(); ++block) {
    inputs.push_back(forward_through(parameters[block], inputs.back()));
  }
  Term d_output = loss_term(parameters.back(), inputs.back());
  for (std::size_t block = parameters.size(); block-- > 0;) {
    const Term gradient = block_gradient(parameters[block], inputs[block], d_output);
    for (std::uint32_t tile = shape_.blocks[block].begin; tile < shape_.blocks[block].end; ++tile) {
      sums[tile] = accumulate(sums[tile], gradient);
    }
    d_output = backward_through(parameters[block], inputs[block], d_output);
  }
}

void ReferenceRun::extend(Step step) {
  while (states_.size() <= step.value()) {
    const Step next(states_.size());
    const TermVector& state = states_.back();
    if (shape_.natural_nan == next) {
      states_.push_back(state);
      digests_.push_back(digests_.back());
      block_digests_.push_back(block_digests_.back());
      continue;
    }
    std::vector<TermVector> level(shape_.slots, TermVector(shape_.tiles));
    for (std::uint32_t slot = 0; slot < shape_.slots; ++slot) {
      for (std::uint32_t tile = 0; tile < shape_.tiles; ++tile) level[slot][tile] = zero_sum(tile);
      for (std::uint32_t position = 0; position < shape_.micro_batches_per_slot; ++position) {
        add_micro_batch(next, slot * shape_.micro_batches_per_slot + position, level[slot]);
      }
    }
    for (std::size_t size = level.size(); size > 1; size /= 2) {
      for (std::size_t i = 0; i < size / 2; ++i) {
        for (std::uint32_t tile = 0; tile < shape_.tiles; ++tile) {
          level[i][tile] = add(level[2 * i][tile], level[2 * i + 1][tile]);
        }
      }
    }
    const Hash128 norm = norm_of(level[0]);
    TermVector result(shape_.tiles);
    for (std::uint32_t tile = 0; tile < shape_.tiles; ++tile) {
      result[tile] = updated(state[tile], level[0][tile], norm, next);
    }
    digests_.push_back(digest_of(result));
    block_digests_.push_back(block_digests(shape_, result));
    states_.push_back(std::move(result));
  }
}

}  // namespace planaria::sim
