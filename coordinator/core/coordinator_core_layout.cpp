// Whether another layout is worth a change: speeds as they are measured, a quick look each second, the planner now and
// then.
#include <algorithm>
#include <cmath>
#include <utility>

#include "coordinator/core/coordinator_core.hpp"
#include "coordinator/core/steady_layout.hpp"

namespace planaria {
namespace {

constexpr Duration kBetweenChecks = std::chrono::seconds(1);
constexpr Duration kBetweenPlans = std::chrono::seconds(10);
// A worker that has changed its speed by this factor is a reason to ask the planner again.
constexpr double kOtherSpeed = 1.3;
// Who computed nothing for so long may have become faster since.
constexpr Duration kSpeedsMemory = std::chrono::minutes(10);

}  // namespace

MeasuredBlocks CoordinatorCore::measure_blocks(const std::vector<WorkerId>& workers) const {
  std::vector<std::vector<float>> seconds;
  for (const WorkerId id : workers) seconds.push_back(workers_.at(id).heartbeat.block_seconds);
  MeasuredBlocks measured = measured_blocks(block_shares_, seconds);
  for (std::size_t i = 0; i < workers.size(); ++i) {
    const WorkerRecord& worker = workers_.at(workers[i]);
    if (measured.speeds[i] <= 0) measured.speeds[i] = worker.speed;
    if (worker.idle_since && now_ >= *worker.idle_since + kSpeedsMemory) measured.speeds[i] = 0;
  }
  return measured;
}

// Every member that computes was measured, and the view stands.
bool CoordinatorCore::settled() const {
  if (!view_ || change_ || waiting_ || finished_ || view_->members.size() < 2 || rebalance_wanted_) return false;
  return std::ranges::all_of(view_->members, [this](const Member& member) {
    const WorkerRecord& worker = workers_.at(member.worker);
    return worker.status != WorkerStatus::draining && (worker.speed > 0 || worker.idle_since);
  });
}

LayoutRequest CoordinatorCore::layout_request() const {
  std::vector<WorkerId> ids;
  for (const Member& member : view_->members) ids.push_back(member.worker);
  const MeasuredBlocks measured = measure_blocks(ids);
  const std::vector<double> speeds = filled_speeds(measured.speeds);
  std::vector<PlannedWorker> workers;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const WorkerRecord& worker = workers_.at(ids[i]);
    workers.push_back({ids[i], worker.host, worker.resources, speeds[i]});
  }
  return planaria::layout_request(config_.job, map_, measured.shares, workers, depths_, view_->stages);
}

// The layout of the view's form that fits the speeds of `request`.
std::vector<StageAssignment> CoordinatorCore::rebalanced(const LayoutRequest& request) const {
  std::vector<WorkerId> ids;
  std::vector<double> speeds, shares;
  for (const WorkerProfile& worker : request.cluster.workers) {
    ids.push_back(worker.worker);
    speeds.push_back(worker.speed);
  }
  for (const BlockProfile& block : request.model.blocks) shares.push_back(block.seconds());
  SteadyLayoutInput input{ids, speeds, shares, {}, config_.job.batch.slots};
  input.previous = view_->stages;
  input.fresh.assign(ids.size(), false);
  return steady_stages(input);
}

// Slots move only for a gain that lasts: checks in a row, a second apart. Their number doubles with each move among the
// same members: workers that share a processor look faster after others than they are, and shall not pass slots around.
void CoordinatorCore::check_balance() {
  if (now_ < next_balance_check_) return;
  next_balance_check_ = now_ + kBetweenChecks;
  if (!settled()) return;
  LayoutRequest request = layout_request();
  const auto step_seconds = [&](const std::vector<StageAssignment>& stages) {
    const auto predicted = predict(plan_of(stages), request.model, request.cluster, request.options);
    return predicted ? predicted->step_s : 0;
  };
  // What the step must fall below for a change to be worth it.
  double least = step_seconds(view_->stages) / (1 + config_.job.cluster.rebalance_gain);
  std::optional<BetterLayout> best;
  const auto weigh = [&](const BetterLayout& layout) {
    const double seconds = step_seconds(layout.stages);
    if (seconds <= 0 || seconds >= least) return false;
    least = seconds;
    best = layout;
    return true;
  };
  if (better_ && !weigh(*better_)) better_.reset();
  weigh({rebalanced(request), "blocks and slots moved to match the workers' speeds"});
  unbalanced_checks_ = best ? unbalanced_checks_ + 1 : 0;
  if (unbalanced_checks_ >= (3U << std::min(rebalances_, 6U))) {
    better_ = std::move(best);
    rebalance_wanted_ = true;
  } else if (!best) {
    consider_planning(std::move(request));
  }
}

void CoordinatorCore::consider_planning(LayoutRequest request) {
  if (plan_asked_ || now_ < next_plan_) return;
  const auto moved = [&](const WorkerProfile& worker) {
    const auto then = planned_speeds_.find(worker.worker);
    return then == planned_speeds_.end() || std::abs(std::log(worker.speed / then->second)) > std::log(kOtherSpeed);
  };
  if (std::ranges::none_of(request.cluster.workers, moved)) return;
  planned_speeds_.clear();
  for (const WorkerProfile& worker : request.cluster.workers) planned_speeds_[worker.worker] = worker.speed;
  next_plan_ = now_ + kBetweenPlans;
  request.number = ++plans_;
  plan_asked_ = view_->view;
  actions_.emplace_back(coordinator_action::PlanLayout{std::move(request)});
}

void CoordinatorCore::handle(const coordinator_event::LayoutPlanned& event) {
  if (!plan_asked_ || event.number != plans_) return;
  const ViewNumber asked_in = *plan_asked_;
  plan_asked_.reset();
  if (!view_ || view_->view != asked_in || finished_) return;
  if (!event.planned) {
    announce("no other layout is planned: " + event.planned.error().message());
  } else if (!event.planned->kept) {
    better_ = BetterLayout{stages_of(event.planned->layout), "another layout: " + event.planned->reason};
  }
}

}  // namespace planaria
