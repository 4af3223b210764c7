// How the word of each member reaches all members.
//
// Few members tell each other. Of many, neighbours in the view's order form groups of about √n: each tells the first of
// its group, its relay; the relays tell each other what their groups say, and then their groups what all say. That
// makes about 3 · n messages of three hops, and each member talks to one other or to 2 · √n, where all to all would
// make n² messages over n connections each. A relay's death is like any member's: the view changes.
//
// Thread contract: immutable.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "common/ids.hpp"

namespace planaria {

// Up to so many members tell each other: one hop is faster than three.
inline constexpr std::size_t kDirectMembers = 32;

class Relays {
 public:
  // `members` in ascending order.
  explicit Relays(std::vector<WorkerId> members, std::size_t direct = kDirectMembers);

  // Who passes on what a member says; in a small view each does so itself. The worker is a member.
  [[nodiscard]] WorkerId relay_of(WorkerId member) const;
  // Whose words the relay passes on, itself first.
  [[nodiscard]] std::span<const WorkerId> group_of(WorkerId relay) const;
  [[nodiscard]] std::vector<WorkerId> relays() const;
  [[nodiscard]] std::span<const WorkerId> members() const { return members_; }
  // Whether `from` may tell `to` what `of` says.
  [[nodiscard]] bool passes_on(WorkerId from, WorkerId to, WorkerId of) const;

 private:
  [[nodiscard]] std::size_t place_of(WorkerId member) const;

  std::vector<WorkerId> members_;
  std::size_t group_size_;
};

}  // namespace planaria
