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
    } else if (part.fragment == stripe.data) {
      for (std::uint32_t i = 0; i < stripe.data; ++i) part.data.push_back(fragment_bytes(map, stripe.fragments[i]));
      part.arrived.resize(stripe.data);
      part.stored.resize(stripe.parity());
    } else {
      part.arrived.resize(1);
    }
    parts_.push_back(std::move(part));
  }
}

bool SnapshotWork::placed() const {
  return std::ranges::all_of(parts_, &Part::placed);
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
    actions.emplace_back(snapshot_action::SendFragment{encoder(part), part.stripe, part.fragment});
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
  std::uint64_t& arrived = part->arrived[of_data ? message.fragment : 0];
  if (from != sender) return corrupt("a fragment's part from another than its keeper");
  if (message.offset != arrived || message.bytes == 0 || message.bytes > whole - arrived) {
    return corrupt("a fragment's part out of turn");
  }
  arrived += message.bytes;
  std::vector<SnapshotAction> actions;
  if (of_data) {
    actions.emplace_back(snapshot_action::AddPart{message});
    sums_advance(*part, actions);
  } else {
    actions.emplace_back(snapshot_action::StorePart{message});
    if (arrived == whole) {
      actions.emplace_back(snapshot_action::SendWord{encoder(*part), {name_, part->stripe, StripeStatus::stored}});
    }
  }
  return actions;
}

// Sums are whole up to where every data fragment has come, or has ended.
void SnapshotWork::sums_advance(Part& part, std::vector<SnapshotAction>& actions) {
  const Stripe& of = stripe(part);
  std::uint64_t whole = part.bytes;
  for (std::uint32_t i = 0; i < of.data; ++i) {
    if (part.arrived[i] < part.data[i]) whole = std::min(whole, part.arrived[i]);
  }
  if (whole == part.summed) return;
  for (std::uint32_t i = of.data + 1; i < of.fragments.size(); ++i) {
    actions.emplace_back(
        snapshot_action::SendParity{of.fragments[i].keeper, {name_, part.stripe, i, part.summed, whole - part.summed}});
  }
  part.summed = whole;
  if (whole == part.bytes) part.stored[0] = true;
  consider_placed(part, actions);
}

Result<std::vector<SnapshotAction>> SnapshotWork::take(WorkerId from, const StripeWord& word) {
  Part* const part = find(word.stripe);
  if (word.snapshot != name_ || part == nullptr) return corrupt("a word of no stripe here");
  const Stripe& of = stripe(*part);
  std::vector<SnapshotAction> actions;
  if (word.status == StripeStatus::placed) {
    const bool has_own =
        part->fragment < of.data ? part->sent : !part->arrived.empty() && part->arrived[0] == part->bytes;
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
