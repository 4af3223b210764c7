// When a change of the view for those who join is worth the time that all members stand still for it.
//
// Joiners wait until they lost together what a change costs: whatever comes next, no more than twice the least possible
// is lost (renting until it has cost as much as buying). Where members are lost every few steps, the changes
// for losses take joiners along, and none is made for joiners alone.
//
// Thread contract: one thread.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <span>

#include "common/clock.hpp"

namespace planaria {

class ChangeTiming {
 public:
  explicit ChangeTiming(Duration heartbeat) : heartbeat_(heartbeat) {}

  // A view of so many members, which do nothing else since then.
  void view_committed(std::size_t members, std::optional<Instant> stood_since, Instant now);
  // Whether members' heartbeats of the view are awaited, to learn what the change cost.
  [[nodiscard]] bool awaits_members() const { return stood_since_.has_value(); }
  // One more tells of it, late by up to the interval of heartbeats.
  void member_entered(Instant now);
  void step_committed(Instant now);
  void member_lost(Instant now);

  // By the latest losses, and by those expected as if one of them had come.
  [[nodiscard]] double losses_per_s(double expected_per_s, Instant now) const;
  // By the latest losses; at most a hundred, which stand for ever.
  [[nodiscard]] double steps_until_loss(Instant now) const;
  [[nodiscard]] bool losses_come_fast(Instant now) const;
  // accepted: when each of them came; not empty.
  [[nodiscard]] Instant worth_for_joiners(std::span<const Instant> accepted, Instant now) const;

 private:
  // Between two losses of late; none: too few are known.
  [[nodiscard]] std::optional<Duration> loss_gap(Instant now) const;

  const Duration heartbeat_;
  std::size_t members_ = 0;
  std::size_t entered_ = 0;
  std::optional<Instant> stood_since_;
  Duration cost_{};  // how long members stood still for the last change
  Instant step_began_{};
  Duration step_took_{};
  std::deque<Instant> losses_;  // the latest
};

}  // namespace planaria
