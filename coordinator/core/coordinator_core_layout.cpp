// Whether another layout, or another interval of snapshots, is worth a change: speeds and waits as they are measured, a
// quick look each second, the planner now and then.
#include <algorithm>
#include <cmath>
#include <utility>

#include "coordinator/core/coordinator_core.hpp"
#include "coordinator/core/steady_layout.hpp"

namespace planaria {
namespace {

constexpr Duration kBetweenChecks = std::chrono::seconds(1);
constexpr Duration kBeforeFirstCheck = std::chrono::seconds(5);         // speeds show in a few steps
constexpr Duration kBalancingPerMember = std::chrono::milliseconds(1);  // a check takes longer with more of them
constexpr Duration kBetweenPlans = std::chrono::seconds(10);
constexpr int kPlanningRest = 50;  // times what the planner took
constexpr Duration kPatienceAtStart = std::chrono::seconds(5);
constexpr std::size_t kFew = 10;          // one in so many
constexpr std::size_t kManyWorkers = 50;  // likewise
// A worker that has changed its speed by this factor is a reason to ask the planner again.
constexpr double kOtherSpeed = 1.3;
// Who computed nothing for so long may have become faster since.
constexpr Duration kSpeedsMemory = std::chrono::minutes(10);

}  // namespace

MeasuredBlocks CoordinatorCore::measure_blocks(const std::vector<WorkerId>& workers) const {
  std::vector<std::span<const float>> seconds;
  for (const WorkerId id : workers) seconds.emplace_back(workers_.at(id).heartbeat.block_seconds);
  MeasuredBlocks measured = measured_blocks(block_shares_, seconds);
  std::vector<double> gflops;
  for (std::size_t i = 0; i < workers.size(); ++i) {
    const WorkerRecord& worker = workers_.at(workers[i]);
    if (measured.speeds[i] <= 0) measured.speeds[i] = worker.speed;
    if (worker.idle_since && now_ >= *worker.idle_since + kSpeedsMemory) measured.speeds[i] = 0;
    gflops.push_back(worker.resources.gflops);
  }
  estimate_speeds(measured.speeds, gflops, operations_);
  return measured;
}

// The view stands, and members that compute were measured: all but a few new ones.
bool CoordinatorCore::settled() const {
  if (!view_ || change_ || waiting_ || finished_ || rebalance_wanted_) return false;
  std::size_t unknown = 0, workers = 0;
  for (const Member& member : view_->members) {
    const WorkerRecord& worker = workers_.at(member.worker);
    if (worker.status == WorkerStatus::draining) return false;
    if (member.role != Role::worker) continue;
    ++workers;
    if (worker.speed <= 0 && !worker.idle_since) ++unknown;
  }
  return workers > 1 && unknown * kFew <= workers;
}

LayoutRequest CoordinatorCore::layout_request() const {
  std::vector<WorkerId> ids;
  for (const Member& member : view_->members) {
    if (member.role == Role::worker) ids.push_back(member.worker);
  }
  return layout_request(ids);
}

LayoutRequest CoordinatorCore::layout_request(const std::vector<WorkerId>& ids) const {
  const MeasuredBlocks measured = measure_blocks(ids);
  const std::vector<double> speeds = filled_speeds(measured.speeds);
  std::vector<PlannedWorker> workers;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const WorkerRecord& worker = workers_.at(ids[i]);
    workers.push_back({ids[i], worker.host, worker.resources, speeds[i], worker.heartbeat.beside_seconds});
  }
  const auto previous = view_ ? std::span<const StageAssignment>(view_->stages) : std::span<const StageAssignment>();
  LayoutRequest request =
      planaria::layout_request(config_.job, map_, measured.shares, workers, depths_, previous, measured_links(ids));
  request.options.losses_per_s = losses_per_s(ids.size());
  request.options.keeps_finished = view_ && view_->snapshot_every != 0 && !view_->snapshots.stripes.empty();
  return request;
}

double CoordinatorCore::losses_per_s(std::size_t workers) const {
  return timing_.losses_per_s(config_.job.cluster.losses_per_s(workers), now_);
}

std::map<WorkerId, LinkTable> CoordinatorCore::measured_links(const std::vector<WorkerId>& ids) const {
  std::map<WorkerId, LinkTable> links;
  for (const WorkerId id : ids) {
    if (const WorkerRecord& worker = workers_.at(id); !worker.links.empty()) links[id] = worker.links;
  }
  return links;
}

// The pipelines of `stages` for the members that there are now and their speeds.
std::vector<StageAssignment> CoordinatorCore::mended(std::span<const StageAssignment> stages,
                                                     const LayoutRequest& request, Forecast& forecast) const {
  std::vector<WorkerId> ids;
  std::vector<double> speeds, shares;
  for (const WorkerProfile& worker : request.cluster.workers) {
    ids.push_back(worker.worker);
    speeds.push_back(worker.speed);
  }
  for (const BlockProfile& block : request.model.blocks) shares.push_back(block.seconds());
  SteadyLayoutInput input{ids, speeds, shares, {}, config_.job.batch.slots};
  input.previous = stages;
  input.enter = false;
  return forecast.with_slots_shared_out(steady_stages(input));
}

// After a planned change members do other work, whose speed shows in a few steps. Losses don't put checks off for ever.
void CoordinatorCore::balance_later(bool planned) {
  next_balance_check_ =
      planned ? now_ + kBeforeFirstCheck + balancing_takes() : std::max(next_balance_check_, now_ + kBetweenChecks);
  if (!better_) unbalanced_checks_ = 0;
}

Duration CoordinatorCore::balancing_takes() const {
  return kBalancingPerMember * (view_ ? std::ssize(view_->members) : 0);
}

// Slots move only for a gain that lasts: checks in a row, a second apart. Their number doubles with each move among the
// same members: workers that share a processor look faster after others than they are, and shall not pass slots around.
void CoordinatorCore::check_balance() {
  if (now_ < next_balance_check_) return;
  next_balance_check_ = now_ + kBetweenChecks + balancing_takes();
  if (!settled()) return;
  LayoutRequest request = layout_request();
  Forecast forecast(request);
  const auto now_seconds = forecast.step_seconds(view_->stages);
  if (!now_seconds) return;
  // What the step must fall below for a change to be worth it.
  double least = *now_seconds / (1 + config_.job.cluster.rebalance_gain);
  std::optional<BetterLayout> best;
  const auto weigh = [&](const BetterLayout& layout) {
    const auto seconds = forecast.step_seconds(layout.stages);
    if (!seconds || *seconds >= least) return false;
    least = *seconds;
    best = layout;
    return true;
  };
  if (better_) {
    better_->stages = mended(better_->stages, request, forecast);
    if (!weigh(*better_)) better_.reset();
  }
  weigh({mended(view_->stages, request, forecast), "blocks and slots moved to match the workers' speeds"});
  unbalanced_checks_ = best ? unbalanced_checks_ + 1 : 0;
  if (unbalanced_checks_ >= (3U << std::min(rebalances_, 6U))) {
    better_ = std::move(best);
    rebalance_wanted_ = true;
  } else if (!best) {
    consider_planning(std::move(request));
  }
}

void CoordinatorCore::check_snapshot_pace() {
  if (!view_ || change_ || waiting_ || finished_ || paced_ || view_->snapshots.stripes.empty()) return;
  const bool drains = std::ranges::any_of(view_->members, [this](const Member& member) {
    return workers_.at(member.worker).status == WorkerStatus::draining;
  });
  if (!drains) paced_ = pace_.look(now_);
}

// The planner is asked when the workers aren't those, or not as fast or as near to each other as those, that it was
// asked about before: more than a few of them. What it takes is a small part of the time between.
void CoordinatorCore::consider_planning(LayoutRequest request) {
  if (plan_asked_ || now_ < next_plan_) return;
  std::set<WorkerId> others = workers_with_other_links(request.cluster, planned_for_);
  for (const WorkerProfile& worker : request.cluster.workers) {
    const WorkerProfile* then = find_worker(planned_for_, worker.worker);
    const bool alike = then != nullptr && std::abs(std::log(worker.speed / then->speed)) <= std::log(kOtherSpeed);
    if (!alike) others.insert(worker.worker);
  }
  for (const WorkerProfile& then : planned_for_.workers) {
    if (find_worker(request.cluster, then.worker) == nullptr) others.insert(then.worker);
  }
  if (others.empty() || others.size() * kManyWorkers < request.cluster.workers.size()) return;
  ask_planner(std::move(request));
}

void CoordinatorCore::ask_planner(LayoutRequest request) {
  planned_for_ = request.cluster;
  request.number = ++plans_;
  plan_asked_ = now_;
  actions_.emplace_back(coordinator_action::PlanLayout{std::move(request)});
}

// The first view waits for the planner, but not for long: any layout is better than none.
bool CoordinatorCore::await_first_layout() {
  std::vector<WorkerId> ready = pending_joiners();
  std::erase_if(ready, [this](WorkerId id) { return !is_worker(id); });
  const bool known = std::ranges::any_of(ready, [this](WorkerId id) { return workers_.at(id).resources.gflops > 0; });
  if (plans_ == 0 && ready.size() > 1 && known && depths_.empty()) ask_planner(layout_request(ready));
  return plan_asked_ && now_ < *plan_asked_ + kPatienceAtStart;
}

void CoordinatorCore::handle(const coordinator_event::LayoutPlanned& event) {
  if (!plan_asked_ || event.number != plans_) return;
  if (view_) next_plan_ = now_ + std::max(kBetweenPlans, kPlanningRest * (now_ - *plan_asked_));
  plan_asked_.reset();
  if (finished_) return;
  if (!event.planned) {
    announce("no other layout is planned: " + event.planned.error().message());
  } else if (!event.planned->kept && !rebalance_wanted_) {
    better_ = BetterLayout{stages_of(event.planned->layout), "another layout: " + event.planned->reason};
  }
}

}  // namespace planaria
