#include "worker/core/snapshot_work.hpp"

#include <algorithm>
#include <functional>

namespace planaria {
namespace {

Error corrupt(const char* why) {
  return {ErrorCode::corrupt, why};
}

}  // namespace

SnapshotWork::SnapshotWork(const StateMap& map, const SnapshotLayout& layout, SnapshotName name, WorkerId self)
    : layout_(layout), name_(name) {
  for (std::uint32_t s = 0; s < layout.stripes.size(); ++s) {
    const Stripe& stripe = layout.stripes[s];
    const auto own = std::ranges::find(stripe.fragments, self, &StripeFragment::keeper);
    if (own == stripe.fragments.end()) continue;
    Part part;
    part.stripe = s;
    part.fragment = static_cast<std::uint32_t>(own - stripe.fragments.begin());
    part.bytes = stripe_bytes(map, stripe);
    if (part.fragment < stripe.data) {
      own_.add(TileSet(own->tiles));
      part.sent = own->tiles.empty();
      part.placed = part.sent && stripe.parity() == 0;
    } else if (part.fragment == stripe.data) {
      for (std::uint32_t i = 0; i < stripe.data; ++i) {
        part.data.push_back(fragment_bytes(map, stripe.fragments[i]));
        part.missing += part.data.back();
      }
      part.flows.resize(stripe.data);
      part.stored.resize(stripe.parity());
    } else {
      part.flows.resize(1);
      part.missing = part.bytes;
    }
    parts_.push_back(std::move(part));
  }
}

bool SnapshotWork::placed() const {
  return std::ranges::all_of(parts_, &Part::placed);
}

std::vector<HeldFragment> SnapshotWork::whole() const {
  std::vector<HeldFragment> held;
  for (const Part& part : parts_) {
    if (!has_parity(part)) continue;
    held.push_back({name_, part.stripe, part.fragment, stripe(part)});
  }
  return held;
}

std::optional<WorkerId> SnapshotWork::waiting_for() const {
  for (const Part& part : parts_) {
    const Stripe& of = stripe(part);
    if (part.placed || (part.fragment < of.data && !part.sent)) continue;
    if (!encodes(part)) return encoder(part);
    for (std::uint32_t i = 0; i < of.data; ++i) {
      if (part.flows[i].arrived < part.data[i]) return of.fragments[i].keeper;
    }
    for (std::uint32_t i = 1; i < of.parity(); ++i) {
      if (!part.stored[i]) return of.fragments[of.data + i].keeper;
    }
  }
  return std::nullopt;
}

SnapshotWork::Part* SnapshotWork::find(std::uint32_t stripe) {
  const auto found = std::ranges::find(parts_, stripe, &Part::stripe);
  return found == parts_.end() ? nullptr : &*found;
}

std::vector<SnapshotAction> SnapshotWork::seal(const TileSet& tiles) {
  sealed_.add(tiles);
  std::vector<SnapshotAction> actions;
  for (Part& part : parts_) {
    if (part.sent || part.fragment >= stripe(part).data) continue;
    if (!sealed_.contains(TileSet(stripe(part).fragments[part.fragment].tiles))) continue;
    part.sent = true;
    if (stripe(part).parity() == 0) {
      part.placed = true;
    } else {
      actions.emplace_back(snapshot_action::SendFragment{encoder(part), name_, part.stripe, part.fragment});
    }
  }
  return actions;
}

Result<std::vector<SnapshotAction>> SnapshotWork::take(WorkerId from, const FragmentPart& message) {
  Part* const part = find(message.stripe);
  if (message.snapshot != name_ || part == nullptr) return corrupt("a fragment's part of no stripe here");
  const Stripe& of = stripe(*part);
  const bool of_data = encodes(*part) && message.fragment < of.data;
  const bool of_own_parity = part->fragment > of.data && message.fragment == part->fragment;
  if (!of_data && !of_own_parity) return corrupt("a fragment's part that isn't wanted here");
  const WorkerId sender = of_data ? of.fragments[message.fragment].keeper : encoder(*part);
  const std::uint64_t whole = of_data ? part->data[message.fragment] : part->bytes;
  Flow& flow = part->flows[of_data ? message.fragment : 0];
  if (from != sender) return corrupt("a fragment's part from another than its keeper");
  if (message.offset > whole || message.bytes == 0 || message.bytes > whole - message.offset) {
    return corrupt("a part beyond its fragment");
  }
  if (message.offset < flow.arrived || !flow.early.try_emplace(message.offset, message.bytes).second) {
    return corrupt("a fragment's part for the second time");
  }
  std::vector<SnapshotAction> actions;
  FragmentPart next = message;
  for (auto at = flow.early.begin(); at != flow.early.end() && at->first <= flow.arrived; at = flow.early.erase(at)) {
    if (at->first < flow.arrived) continue;  // parts that overlap are no keeper's
    next.offset = at->first;
    next.bytes = at->second;
    flow.arrived += next.bytes;
    if (of_data) {
      actions.emplace_back(snapshot_action::AddPart{next});
    } else {
      actions.emplace_back(snapshot_action::StorePart{next});
    }
  }
  if (of_data) sums_advance(*part, actions);
  return actions;
}

std::vector<SnapshotAction> SnapshotWork::stored(const FragmentPart& message) {
  std::vector<SnapshotAction> actions;
  Part* const part = find(message.stripe);
  if (part == nullptr) return actions;
  part->missing -= message.bytes;
  if (part->missing > 0) return actions;
  if (encodes(*part)) {
    part->stored[0] = true;
    consider_placed(*part, actions);
  } else {
    actions.emplace_back(snapshot_action::SendWord{encoder(*part), {name_, part->stripe, StripeStatus::stored}});
  }
  return actions;
}

// Sums are whole up to where every data fragment has come, or has ended.
void SnapshotWork::sums_advance(Part& part, std::vector<SnapshotAction>& actions) {
  const Stripe& of = stripe(part);
  std::uint64_t whole = part.bytes;
  for (std::uint32_t i = 0; i < of.data; ++i) {
    if (part.flows[i].arrived < part.data[i]) whole = std::min(whole, part.flows[i].arrived);
  }
  if (whole == part.summed) return;
  for (std::uint32_t i = of.data + 1; i < of.fragments.size(); ++i) {
    actions.emplace_back(
        snapshot_action::SendParity{of.fragments[i].keeper, {name_, part.stripe, i, part.summed, whole - part.summed}});
  }
  part.summed = whole;
}

Result<std::vector<SnapshotAction>> SnapshotWork::take(WorkerId from, const StripeWord& word) {
  Part* const part = find(word.stripe);
  if (word.snapshot != name_ || part == nullptr) return corrupt("a word of no stripe here");
  const Stripe& of = stripe(*part);
  std::vector<SnapshotAction> actions;
  if (word.status == StripeStatus::placed) {
    const bool has_own = part->fragment < of.data ? part->sent : has_parity(*part);
    if (encodes(*part) || from != encoder(*part) || !has_own) return corrupt("a stripe is placed before its time");
    part->placed = true;
    return actions;
  }
  const auto sender = std::ranges::find(of.fragments, from, &StripeFragment::keeper) - of.fragments.begin();
  if (!encodes(*part) || sender <= of.data || sender >= static_cast<std::ptrdiff_t>(of.fragments.size()) ||
      part->summed != part->bytes) {
    return corrupt("parity is stored before it was sent");
  }
  part->stored[static_cast<std::size_t>(sender) - of.data] = true;
  consider_placed(*part, actions);
  return actions;
}

void SnapshotWork::consider_placed(Part& part, std::vector<SnapshotAction>& actions) {
  if (part.placed || !std::ranges::all_of(part.stored, std::identity())) return;
  part.placed = true;
  const Stripe& of = stripe(part);
  for (std::uint32_t i = 0; i < of.fragments.size(); ++i) {
    if (i == of.data) continue;
    actions.emplace_back(snapshot_action::SendWord{of.fragments[i].keeper, {name_, part.stripe, StripeStatus::placed}});
  }
}

}  // namespace planaria
