#include "chaos/fleet/baseline_fleet.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <deque>
#include <utility>
#include <vector>

namespace planaria::fleet {
namespace {

class BaselineFleet {
 public:
  BaselineFleet(Policy policy, const FleetModel& model, const CapacityTrace& trace, const BaselineCosts& costs)
      : policy_(policy), model_(model), trace_(trace), costs_(costs) {
    result_.policy = to_string(policy);
    const auto& pipelines = model.best().layout.pipelines;
    depth_ = pipelines[pipelines.size() / 2].stages.size();
    const double part = policy == Policy::spare ? 1 - costs.spares : 1;
    replicas_.resize(std::max<std::size_t>(1, static_cast<std::size_t>(model.options().workers * part) / depth_));
    for (Replica& replica : replicas_) replica.places.assign(depth_, kNobody);
    place_of_.assign(trace.workers(), kNowhere);
    const double state = static_cast<double>(model.bytes_of(model.map().tiles_with_state(), false)) * 4 / 3;
    fetch_s_ = state / static_cast<double>(depth_) / model.bytes_per_s();
    const double mean_time_to_death =
        trace.capacity() / std::max<double>(1, static_cast<double>(trace.preemptions())) / model.options().workers;
    const double checkpoint_s = to_seconds(costs.checkpoint);
    // Young, "A first order approximation to the optimum checkpoint interval", 1974.
    steps_a_checkpoint_ = std::max<std::uint64_t>(
        1, static_cast<std::uint64_t>(std::sqrt(2 * checkpoint_s * mean_time_to_death) / model.step_s()));
  }

  FleetResult run() {
    const double end = to_seconds(trace_.length);
    std::size_t next_event = 0;
    while (true) {
      const double event = next_event < trace_.events.size() ? to_seconds(trace_.events[next_event].at) : kNever;
      const double next = std::min({event, down_until_, step_end_});
      if (next >= end) break;
      advance(next);
      if (next == event) {
        happen(trace_.events[next_event++]);
        // All that are there at the start begin together.
        const bool more = next_event < trace_.events.size() && to_seconds(trace_.events[next_event].at) <= now_s_;
        if (!more && !begun_) {
          begun_ = true;
          begin_step();
        }
      } else if (next == down_until_) {
        down_until_ = kNever;
        if (policy_ == Policy::restart) seat_all();
        begin_step();
      } else {
        end_step();
      }
    }
    advance(end);
    result_.losses.recompute += step_area_;
    result_.capacity = capacity_;
    return result_;
  }

 private:
  static constexpr std::uint32_t kNobody = UINT32_MAX;
  static constexpr std::size_t kNowhere = SIZE_MAX;

  struct Replica {
    std::vector<std::uint32_t> places;
    std::size_t taken = 0;
    double ready_s = 0;  // its newest worker has its state
    bool in_step = false;
  };

  void advance(double to_s) {
    const double passed = to_s - now_s_;
    now_s_ = to_s;
    capacity_ += passed * static_cast<double>(there_);
    if (!begun_) return;
    if (step_end_ >= kNever) {
      result_.losses.change += passed * static_cast<double>(there_);
      return;
    }
    const double at_work = static_cast<double>(live_ * depth_);
    step_area_ += passed * at_work;
    result_.losses.spare += passed * static_cast<double>(spares_.size());
    result_.losses.absent += passed * (static_cast<double>(there_ - spares_.size()) - at_work);
  }

  void happen(const CapacityEvent& event) {
    if (event.joins) {
      ++there_;
      spares_.push_back(event.worker);
      if (!begun_ || policy_ != Policy::restart) seat_all();
      return;
    }
    --there_;
    std::size_t& place = place_of_[event.worker];
    if (place == kNowhere) {
      std::erase(spares_, event.worker);
      return;
    }
    Replica& replica = replicas_[place / depth_];
    replica.places[place % depth_] = kNobody;
    --replica.taken;
    place = kNowhere;
    if (replica.in_step) break_step();
    if (policy_ != Policy::restart) seat_all();
  }

  // Who is free takes the first places that are.
  void seat_all() {
    for (std::size_t r = 0; r < replicas_.size() && !spares_.empty(); ++r) {
      Replica& replica = replicas_[r];
      for (std::size_t k = 0; k < depth_ && replica.taken < depth_ && !spares_.empty(); ++k) {
        if (replica.places[k] != kNobody) continue;
        replica.places[k] = spares_.front();
        place_of_[spares_.front()] = r * depth_ + k;
        spares_.pop_front();
        ++replica.taken;
        if (begun_ && policy_ != Policy::restart)
          replica.ready_s = now_s_ + to_seconds(model_.options().lease) + fetch_s_;
      }
    }
  }

  void break_step() {
    result_.losses.recompute += std::exchange(step_area_, 0.0);
    const double known = now_s_ + to_seconds(model_.options().lease);
    double goes_on = known + to_seconds(costs_.reconfigure);
    if (policy_ == Policy::restart) goes_on = known + to_seconds(costs_.restart) + fetch_s_;
    if (policy_ == Policy::spare && !spares_.empty()) goes_on = std::max(goes_on, known + fetch_s_);
    down_until_ = down_until_ >= kNever ? goes_on : std::max(down_until_, goes_on);
    step_end_ = kNever;
    for (Replica& replica : replicas_) replica.in_step = false;
    if (policy_ == Policy::restart) {
      result_.losses.recompute += unsaved_work_;
      result_.work -= unsaved_work_;
      result_.steps -= unsaved_;
      unsaved_ = 0;
      unsaved_work_ = 0;
    }
    ++result_.views;
  }

  void begin_step() {
    live_ = 0;
    for (Replica& replica : replicas_) {
      replica.in_step = replica.taken == depth_ && replica.ready_s <= now_s_;
      if (replica.in_step) ++live_;
    }
    step_area_ = 0;
    step_end_ = now_s_ + model_.step_s();
    if (policy_ == Policy::restart && unsaved_ + 1 >= steps_a_checkpoint_) step_end_ += to_seconds(costs_.checkpoint);
  }

  [[nodiscard]] double work_of_step() const { return static_cast<double>(live_ * depth_) * model_.step_s(); }

  void end_step() {
    if (live_ > 0) {
      const double work = work_of_step();
      result_.work += work;
      result_.losses.change += step_area_ - work;  // a checkpoint
      ++result_.steps;
      ++unsaved_;
      unsaved_work_ += work;
      if (unsaved_ >= steps_a_checkpoint_) {
        unsaved_ = 0;
        unsaved_work_ = 0;
      }
    }
    begin_step();
  }

  const Policy policy_;
  const FleetModel& model_;
  const CapacityTrace& trace_;
  const BaselineCosts costs_;
  FleetResult result_;
  std::size_t depth_ = 1;
  double fetch_s_ = 0;
  std::uint64_t steps_a_checkpoint_ = 1;

  std::vector<Replica> replicas_;
  std::vector<std::size_t> place_of_;  // by worker
  std::deque<std::uint32_t> spares_;
  std::size_t there_ = 0;
  std::size_t live_ = 0;
  bool begun_ = false;
  double now_s_ = 0, capacity_ = 0;
  double down_until_ = kNever, step_end_ = kNever;
  double step_area_ = 0;  // worker-seconds of the step so far
  std::uint64_t unsaved_ = 0;
  double unsaved_work_ = 0;
};

}  // namespace

const char* to_string(Policy policy) {
  switch (policy) {
    case Policy::planaria:
      return "planaria";
    case Policy::restart:
      return "restart";
    case Policy::drop_replica:
      return "drop-replica";
    case Policy::spare:
      return "spare";
    case Policy::count_:
      break;
  }
  return "unknown";
}

FleetResult run_baseline(Policy policy, const FleetModel& model, const CapacityTrace& trace,
                         const BaselineCosts& costs) {
  assert(policy != Policy::planaria);
  return BaselineFleet(policy, model, trace, costs).run();
}

}  // namespace planaria::fleet
