#include "proto/relays.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <utility>

namespace planaria {

Relays::Relays(std::vector<WorkerId> members, std::size_t direct)
    : members_(std::move(members)),
      group_size_(members_.size() <= direct
                      ? 1
                      : static_cast<std::size_t>(std::ceil(std::sqrt(static_cast<double>(members_.size()))))) {
  assert(std::ranges::is_sorted(members_));
}

std::size_t Relays::place_of(WorkerId member) const {
  const auto at = std::ranges::lower_bound(members_, member);
  assert(at != members_.end() && *at == member);
  return static_cast<std::size_t>(at - members_.begin());
}

WorkerId Relays::relay_of(WorkerId member) const {
  const std::size_t place = place_of(member);
  return members_[place - place % group_size_];
}

std::span<const WorkerId> Relays::group_of(WorkerId relay) const {
  const std::size_t first = place_of(relay);
  assert(first % group_size_ == 0);
  return std::span(members_).subspan(first, std::min(group_size_, members_.size() - first));
}

std::vector<WorkerId> Relays::relays() const {
  std::vector<WorkerId> relays;
  for (std::size_t place = 0; place < members_.size(); place += group_size_) relays.push_back(members_[place]);
  return relays;
}

bool Relays::passes_on(WorkerId from, WorkerId to, WorkerId of) const {
  const WorkerId relay = relay_of(to);
  if (to != relay) return from == relay;
  return relay_of(of) == to ? from == of : from == relay_of(of);
}

}  // namespace planaria
