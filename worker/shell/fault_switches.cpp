#include "worker/shell/fault_switches.hpp"

#include <utility>

#include "common/overloaded.hpp"

namespace planaria {

namespace {

Error not_yet() {
  return {ErrorCode::unavailable, "the worker isn't that far yet"};
}

FaultRule rule_of(const fault_command::Link& link) {
  FaultRule rule;
  rule.drop = link.loss;
  rule.duplicate = link.duplicate;
  rule.corrupt = link.corrupt;
  rule.delay = Duration(static_cast<std::int64_t>(link.delay_ms * 1e6));
  rule.bytes_per_second = link.rate_mbit * 1e6 / 8;
  return rule;
}

}  // namespace

void FaultSwitches::set_trainer(Trainer* trainer) {
  const std::scoped_lock lock(mutex_);
  trainer_ = trainer;
}

void FaultSwitches::set_keeper(KeeperExecutor* keeper) {
  const std::scoped_lock lock(mutex_);
  keeper_ = keeper;
}

std::shared_ptr<Transport> FaultSwitches::wrap(std::shared_ptr<Transport> inner, std::uint64_t seed) {
  const std::scoped_lock lock(mutex_);
  transport_ = std::make_shared<FaultyTransport>(std::move(inner), seed, clock_, true);
  apply_rules();
  return transport_;
}

void FaultSwitches::apply_rules() {
  if (!transport_) return;
  for (const auto& [key, rule] : rules_) {
    if (key.first) {
      transport_->set_rule(*key.first, key.second, rule);
    } else {
      transport_->set_default_rule(key.second, rule);
    }
  }
}

void FaultSwitches::set_rules(std::optional<WorkerId> peer, Direction direction, const FaultRule& rule) {
  rules_[{peer, direction}] = rule;
  apply_rules();
}

FaultRule FaultSwitches::default_rule(Direction direction) const {
  const auto found = rules_.find({std::nullopt, direction});
  return found == rules_.end() ? FaultRule{} : found->second;
}

Status FaultSwitches::apply(const FaultCommand& command) {
  const std::scoped_lock lock(mutex_);
  return std::visit(Overloaded{[&](const fault_command::Slow& slow) -> Status {
                                 if (trainer_ == nullptr) return not_yet();
                                 trainer_->set_speed(slow.fraction);
                                 return ok_status();
                               },
                               [&](const fault_command::Nan& nan) -> Status {
                                 if (trainer_ == nullptr) return not_yet();
                                 trainer_->poison(nan.step);
                                 return ok_status();
                               },
                               [&](const fault_command::Link& link) -> Status {
                                 const bool in = link.direction != fault_command::Direction::out;
                                 const bool out = link.direction != fault_command::Direction::in;
                                 if (in) set_rules(link.peer, Direction::inbound, rule_of(link));
                                 if (out) set_rules(link.peer, Direction::outbound, rule_of(link));
                                 return ok_status();
                               },
                               [&](const fault_command::Block& block) -> Status {
                                 if (!block.peer) {
                                   coordinator_blocked_.store(block.blocked);
                                   return ok_status();
                                 }
                                 for (const Direction direction : {Direction::inbound, Direction::outbound}) {
                                   const auto known = rules_.find({block.peer, direction});
                                   FaultRule rule = known == rules_.end() ? default_rule(direction) : known->second;
                                   rule.block = block.blocked;
                                   set_rules(block.peer, direction, rule);
                                 }
                                 return ok_status();
                               },
                               [&](const fault_command::CorruptNext&) -> Status {
                                 corrupt_next_.store(true);
                                 return ok_status();
                               },
                               [&](const fault_command::DiskFull& full) -> Status {
                                 files_.fill_now();
                                 disk_heals_at_ =
                                     clock_.now() + Duration(static_cast<std::int64_t>(full.seconds * 1e9));
                                 return ok_status();
                               },
                               [&](const fault_command::Damage& damage) -> Status {
                                 return keeper_ == nullptr ? Status(not_yet()) : keeper_->damage(damage.how);
                               },
                               [](const auto&) { return ok_status(); }},
                    command);
}

void FaultSwitches::before_send() {
  if (!corrupt_next_.load(std::memory_order_relaxed)) return;
  const std::scoped_lock lock(mutex_);
  if (!transport_) return;
  FaultRule rule = default_rule(Direction::outbound);
  rule.corrupt = 1;
  transport_->set_default_rule(Direction::outbound, rule);
}

void FaultSwitches::after_send() {
  if (!corrupt_next_.exchange(false)) return;
  const std::scoped_lock lock(mutex_);
  if (transport_) transport_->set_default_rule(Direction::outbound, default_rule(Direction::outbound));
}

void FaultSwitches::tick() {
  const std::scoped_lock lock(mutex_);
  if (!disk_heals_at_ || clock_.now() < *disk_heals_at_) return;
  disk_heals_at_.reset();
  files_.heal();
}

}  // namespace planaria
