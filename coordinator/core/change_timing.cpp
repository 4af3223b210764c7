#include "coordinator/core/change_timing.hpp"

#include <algorithm>

namespace planaria {
namespace {

constexpr std::size_t kLossesRemembered = 8;
constexpr std::size_t kLossesKnown = 4;  // fewer say nothing of how fast they come
constexpr double kForEver = 100;         // steps
constexpr double kFewSteps = 4;

}  // namespace

void ChangeTiming::view_committed(std::size_t members, std::optional<Instant> stood_since, Instant now) {
  members_ = members;
  entered_ = 0;
  stood_since_ = stood_since;
  if (step_began_ == Instant{}) step_began_ = now;
}

void ChangeTiming::member_entered(Instant now) {
  if (++entered_ < members_) return;
  cost_ = std::max(Duration(0), now - *stood_since_ - heartbeat_);
  stood_since_.reset();
}

void ChangeTiming::step_committed(Instant now) {
  step_took_ = now - step_began_;
  step_began_ = now;
}

void ChangeTiming::member_lost(Instant now) {
  losses_.push_back(now);
  if (losses_.size() > kLossesRemembered) losses_.pop_front();
}

std::optional<Duration> ChangeTiming::loss_gap(Instant now) const {
  if (losses_.size() < kLossesKnown) return std::nullopt;
  return (now - losses_.front()) / (std::ssize(losses_) - 1);
}

double ChangeTiming::losses_per_s(double expected_per_s, Instant now) const {
  if (losses_.empty()) return expected_per_s;
  return static_cast<double>(losses_.size()) / (to_seconds(now - losses_.front()) + 1 / expected_per_s);
}

double ChangeTiming::steps_until_loss(Instant now) const {
  const auto gap = loss_gap(now);
  if (!gap || step_took_ <= Duration(0)) return kForEver;
  return std::clamp(to_seconds(*gap) / to_seconds(step_took_), 1.0, kForEver);
}

bool ChangeTiming::losses_come_fast(Instant now) const {
  return steps_until_loss(now) < kFewSteps;
}

Instant ChangeTiming::worth_for_joiners(std::span<const Instant> accepted, Instant now) const {
  if (losses_come_fast(now)) return now + *loss_gap(now);
  Duration lacking = cost_ * static_cast<std::int64_t>(members_);
  for (const Instant since : accepted) lacking -= now - since;
  return now + std::max(Duration(0), lacking / std::ssize(accepted));
}

}  // namespace planaria
