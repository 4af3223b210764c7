#include "chaos/sim/terms.hpp"

#include <array>
#include <bit>
#include <limits>
#include <span>

#include "proto/evaluation.hpp"

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

double sum_of_squares(const Term& reduced) {
  return reduced.finite ? number_of(reduced.id) : std::numeric_limits<double>::quiet_NaN();
}

Hash128 norm_of(const std::vector<double>& sums) {
  Hash128 digest;
  for (const double sum : sums) digest = mix(Operation::norm, digest, {std::bit_cast<std::uint64_t>(sum), 0});
  return digest;
}

Term updated(const Term& state, const Term& reduced, const Hash128& norm, Step step) {
  return {mix(Operation::update, mix(Operation::update, state.id, reduced.id), norm, step.value()),
          state.finite && reduced.finite};
}

double number_of(const Hash128& id) {
  return static_cast<double>(id.low >> 11) * 0x1.0p-53;
}

Hash128 block_digest(const JobShape& shape, const TermVector& state, std::uint32_t block) {
  Hash128 digest;
  for (std::uint32_t tile = shape.blocks[block].begin; tile < shape.blocks[block].end; ++tile) {
    digest = mix(Operation::norm, digest, state[tile].id, state[tile].finite ? 1 : 2);
  }
  return digest;
}

BlockHash block_hash(const JobShape& shape, const TermVector& state, std::uint32_t block) {
  return {block, mix(Operation::norm, block_digest(shape, state, block), {})};
}

BlockWeights block_weights(const JobShape& shape, const TermVector& state, std::uint32_t block) {
  BlockWeights weights{block, {}};
  for (std::uint32_t tensor = 0; tensor < shape.tensors[block]; ++tensor) {
    weights.tensors.push_back(mix(Operation::weights, block_digest(shape, state, block), {}, tensor));
  }
  return weights;
}

Term whole_gradient(const StateMap& map, const TermVector& reduced, std::uint32_t tile) {
  const std::uint32_t copy = map.tied_tiles().begin + tile;
  const bool has_copy = !map.tied_tiles().empty() && copy < map.tile_count();
  return has_copy ? add(reduced[tile], reduced[copy]) : reduced[tile];
}

void fill_tied(const StateMap& map, TermVector& state) {
  for (std::uint32_t tile = map.tied_tiles().begin; tile < map.tied_tiles().end; ++tile) {
    state[tile] = state[map.originals_of({tile, tile + 1}).begin];
  }
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
  fill_tied(*shape_.map, initial);
  block_digests_.push_back(block_digests(shape_, initial));
  states_.push_back(std::move(initial));
}

const TermVector& ReferenceRun::state(Step step) {
  extend(step);
  return states_[step.value()];
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
    const StateMap& map = *shape_.map;
    TermVector gradient = level[0];
    std::vector<double> sums(shape_.tiles, 0);
    for (std::uint32_t tile = 0; tile < map.tiles_with_state().end; ++tile) {
      gradient[tile] = whole_gradient(map, level[0], tile);
      sums[tile] = sum_of_squares(gradient[tile]);
    }
    const Hash128 norm = norm_of(sums);
    TermVector result(shape_.tiles);
    for (std::uint32_t tile = 0; tile < map.tiles_with_state().end; ++tile) {
      result[tile] = updated(state[tile], gradient[tile], norm, next);
    }
    fill_tied(map, result);
    block_digests_.push_back(block_digests(shape_, result));
    states_.push_back(std::move(result));
  }
}

}  // namespace planaria::sim
