// Fragments of snapshots, as terms: parity, and state that is made from it.
#include <algorithm>
#include <utility>

#include "chaos/sim/describe.hpp"
#include "chaos/sim/invariants.hpp"
#include "chaos/sim/process.hpp"
#include "chaos/sim/simulation.hpp"
#include "chaos/sim/trainer_model.hpp"

namespace planaria::sim {

using namespace worker_action;  // NOLINT: the file carries these out

TrainerModel::Parity& TrainerModel::open_parity(const SnapshotLayout& layout, const FragmentPart& part, bool encodes) {
  Parity& parity = parities_[{part.snapshot, part.stripe}];
  if (parity.sums == nullptr) {
    parity.sums = std::make_shared<Buffer>();
    parity.sums->stamp = part.snapshot.step;
    parity.sums->tiles.resize(world_.options.shape.tiles);
    parity.layout = layout.stripes[part.stripe];
    parity.fragment = encodes ? parity.layout.data : part.fragment;
  }
  return parity;
}

void TrainerModel::parity_whole(const ParityKey& key, Parity& parity) {
  parity.whole = true;
  parities_held_.insert({key.first, key.second, parity.fragment});
}

void TrainerModel::add_part(const AddFragmentPart& action) {
  Parity& parity = open_parity(*action.layout, action.part, true);
  const auto& payload = static_cast<const TermPayload&>(*action.payload);
  for (const TileRange run : parity.layout.fragments[action.part.fragment].tiles) {
    std::copy(payload.tiles.begin() + run.begin, payload.tiles.begin() + run.end,
              parity.sums->tiles.begin() + run.begin);
  }
  parity.bytes += action.part.bytes;
  std::uint64_t all = 0;
  for (std::uint32_t i = 0; i < parity.layout.data; ++i) {
    all += fragment_bytes(*world_.options.shape.map, parity.layout.fragments[i]);
  }
  if (parity.bytes == all) parity_whole({action.part.snapshot, action.part.stripe}, parity);
  process_.post(worker_event::FragmentStored{action.part, true, ""});
}

void TrainerModel::store_part(const StoreFragmentPart& action) {
  Parity& parity = open_parity(*action.layout, action.part, false);
  parity.sums->tiles = static_cast<const TermPayload&>(*action.payload).tiles;
  parity.bytes += action.part.bytes;
  if (parity.bytes == stripe_bytes(*world_.options.shape.map, parity.layout)) {
    parity_whole({action.part.snapshot, action.part.stripe}, parity);
  }
  process_.post(worker_event::FragmentStored{action.part, true, ""});
}

void TrainerModel::keep_fragments(const KeepFragments& action) {
  std::erase_if(parities_, [&](const auto& entry) {
    const ParityKey& key = entry.first;
    const std::uint32_t own = entry.second.fragment;
    if (std::ranges::find(action.building, key.first) != action.building.end()) return false;
    return std::ranges::none_of(action.whole, [&](const HeldFragment& held) {
      return held.snapshot == key.first && held.stripe == key.second && held.fragment == own;
    });
  });
}

void TrainerModel::save_snapshot(const SaveSnapshot& action) {
  const BufferRef state = find_state(action.snapshot.step);
  if (state == nullptr || !state->state.contains(TileSet(action.tiles))) {
    return fail("10: a durable snapshot of state that isn't held", describe(WorkerAction(action)));
  }
  process_.simulation().disks().save_part(process_, action.snapshot, TileSet(action.tiles), state->tiles);
}

BufferRef TrainerModel::parity_buffer(const FragmentPart& part, bool whole) const {
  const auto found = parities_.find({part.snapshot, part.stripe});
  if (found == parities_.end()) return nullptr;
  const bool asked = !whole || (found->second.whole && found->second.fragment == part.fragment);
  return asked ? found->second.sums : nullptr;
}

const TermVector* TrainerModel::parity(const HeldFragment& held) const {
  const auto found = parities_.find({held.snapshot, held.stripe});
  const bool here = found != parities_.end() && found->second.whole && found->second.fragment == held.fragment &&
                    found->second.layout == held.layout;
  return here ? &found->second.sums->tiles : nullptr;
}

// Any k fragments of one state give back the others; of different ones they give bits that are nobody's.
void TrainerModel::rebuild(const RebuildState& action) {
  std::vector<std::pair<std::uint32_t, const TermVector*>> inputs;
  std::set<std::uint32_t> there;
  for (std::uint32_t i = 0; i < action.layout.data; ++i) {
    if (action.layout.is_zeros(i)) there.insert(i);
  }
  for (const RebuildState::Input& input : action.inputs) {
    const TermVector* terms = nullptr;
    if (input.payload != nullptr) {
      terms = &static_cast<const TermPayload&>(*input.payload).tiles;
    } else if (input.bytes > 0 && input.fragment < action.layout.data) {
      const BufferRef own = find_state(action.snapshot.step);
      if (own != nullptr && own->state.contains(TileSet(action.layout.fragments[input.fragment].tiles))) {
        terms = &own->tiles;
      }
    } else if (input.bytes > 0) {
      terms = parity({action.snapshot, action.stripe, input.fragment, action.layout});
    }
    if (terms == nullptr && input.bytes > 0) {
      return fail("11: a fragment is used that isn't held", describe(WorkerAction(action)));
    }
    if (terms != nullptr) inputs.emplace_back(input.fragment, terms);
    there.insert(input.fragment);
  }
  if (there.size() < action.layout.data || there.contains(action.fragment)) {
    return fail("11: lost state is made from too few fragments", describe(WorkerAction(action)));
  }
  const TermVector* sums = nullptr;
  for (const auto& [fragment, terms] : inputs) {
    if (fragment >= action.layout.data) sums = terms;
  }
  bool alike = sums != nullptr;
  for (const auto& [fragment, terms] : inputs) {
    for (std::uint32_t i = 0; alike && i < action.layout.data; ++i) {
      if (fragment < action.layout.data && fragment != i) continue;
      for (const TileRange run : action.layout.fragments[i].tiles) {
        alike = alike && std::equal(terms->begin() + run.begin, terms->begin() + run.end, sums->begin() + run.begin);
      }
    }
  }
  Buffer& state = open_state(action.snapshot.step);
  for (const TileRange run : action.tiles) {
    for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
      Term made = alike ? (*sums)[tile] : Term{};
      if (!alike) made.id = mix(Operation::damage, {tile, 2}, {});
      state.tiles[tile] = made;
    }
  }
  process_.simulation().oracle().state_made_again(process_, action);
  add_tiles(state, TileSet(action.tiles), {});
  process_.post(worker_event::StateStored{action.snapshot.step, action.tiles, false, true, ""});
}

}  // namespace planaria::sim
