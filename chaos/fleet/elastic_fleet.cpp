#include "chaos/fleet/elastic_fleet.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <queue>
#include <set>
#include <utility>

#include "chaos/fleet/step_schedule.hpp"
#include "common/philox.hpp"
#include "coordinator/core/coordinator_core.hpp"
#include "proto/tile_set.hpp"

namespace planaria::fleet {
namespace {

constexpr std::size_t kAddressBytes = 64;  // of a data plane
constexpr std::uint64_t kReportBytes = 400;
constexpr std::uint64_t kSmallBytes = 100;

Instant at(double seconds) {
  return {static_cast<std::int64_t>(seconds * 1e9)};
}

class ElasticFleet {
 public:
  ElasticFleet(const FleetModel& model, const CapacityTrace& trace, const Progress& progress)
      : model_(model), trace_(trace), progress_(progress), core_(core_config(model)), schedule_(model) {
    result_.policy = "planaria";
    workers_.resize(trace.workers());
    stages_of_.resize(trace.workers());
  }

  FleetResult run() {
    tell(coordinator_event::Started{});
    for (std::size_t i = 0; i < trace_.events.size(); ++i) {
      later(to_seconds(trace_.events[i].at), [this, i] { happen(trace_.events[i]); });
    }
    const double end = to_seconds(trace_.length);
    const double beat = model_.job().cluster.heartbeat_ms / 1e3;
    double next_beat = beat;
    while (result_.ended.empty()) {
      const double event = queue_.empty() ? kNever : queue_.top().at_s;
      const double tick = static_cast<double>(core_.next_tick().ns) / 1e9;
      const double next = std::min({event, tick, next_beat});
      if (next >= end) break;
      advance(std::max(next, now_s_));
      if (next == event) {
        auto action = std::move(queue_.top().action);
        queue_.pop();
        action();
      } else if (next == next_beat) {
        heartbeats();
        next_beat += beat;
      } else {
        tell(coordinator_event::Tick{});
      }
    }
    advance(result_.ended.empty() ? end : now_s_);
    account_step(false);
    result_.capacity = area_there_;
    result_.work = static_cast<double>(result_.steps) * model_.work_of_step();
    return result_;
  }

 private:
  struct Worker {
    bool there = false;
    bool member = false;  // of the view that it entered last
    bool staged = false;
    std::optional<WorkerEnvelope> envelope;  // its heartbeats; none before Welcome
    ViewNumber prepared;
    BlockRange kept;              // of the steady layout
    std::vector<TileRange> held;  // of the state before step_
    TileSet reduced;              // of step_'s gradient
    std::vector<StateFetch> fetches;
    double fetch_from = 0, fetch_until = 0;
  };
  struct Later {
    double at_s = 0;
    std::uint64_t order = 0;
    mutable std::function<void()> action;
    bool operator<(const Later& other) const { return at_s != other.at_s ? at_s > other.at_s : order > other.order; }
  };

  static CoordinatorCoreConfig core_config(const FleetModel& model) {
    CoordinatorCoreConfig config;
    config.job = model.job();
    config.job_hash = kJob;
    return config;
  }
  static constexpr Hash128 kJob{1, 2};

  // ---- time ----

  void later(double at_s, std::function<void()> action) { queue_.push({at_s, order_++, std::move(action)}); }

  void advance(double to_s) {
    const double passed = to_s - now_s_;
    area_there_ += passed * there_;
    area_members_ += passed * members_there_;
    area_staged_ += passed * staged_there_;
    now_s_ = to_s;
  }

  // ---- the coordinator ----

  void tell(const CoordinatorEvent& event) { act(core_.on(event, at(now_s_))); }
  void tell(std::uint32_t worker, WorkerMessage message) {
    const auto& known = workers_[worker].envelope;
    WorkerEnvelope envelope{kProtocolVersion, known ? known->worker : WorkerId(0),
                            known ? known->incarnation : Incarnation(0), std::move(message)};
    tell(coordinator_event::SessionMessage{SessionId(worker + 1), std::move(envelope)});
  }

  void act(CoordinatorActions actions) {
    std::vector<std::uint32_t> prepared, committed;
    Prepare prepare;
    std::uint64_t committed_bytes = 0;
    for (CoordinatorAction& action : actions) {
      if (auto* send = std::get_if<coordinator_action::Send>(&action)) {
        const auto to = static_cast<std::uint32_t>(send->session.value() - 1);
        if (auto* message = std::get_if<Prepare>(&send->envelope.message)) {
          if (prepared.empty() || message->view > prepare.view) {
            prepared.clear();  // the older one's answers would be refused
            prepare = std::move(*message);
          }
          prepared.push_back(to);
        } else if (const auto* commit = std::get_if<CommitView>(&send->envelope.message)) {
          committed_bytes += commit->packed->bytes.size() + kSmallBytes;
          committed.push_back(to);
        } else {
          answer(to, send->envelope);
        }
      } else if (auto* plan = std::get_if<coordinator_action::PlanLayout>(&action)) {
        start_plan(std::move(plan->request));
      } else if (const auto* exit = std::get_if<coordinator_action::Exit>(&action)) {
        result_.ended = exit->reason;
      }
    }
    // A view that is committed comes before what is prepared after it.
    if (!committed.empty()) {
      const FleetOptions& options = model_.options();
      const std::shared_ptr<const ViewRecord> record = core_.view();
      const double work = static_cast<double>(record->members.size()) * to_seconds(options.decision_work) +
                          to_seconds(options.log_sync);
      result_.view_bytes.push_back(static_cast<double>(committed_bytes) / static_cast<double>(committed.size()));
      const double arrives = sent(committed.size(), committed_bytes, work);
      later(arrives, [this, committed = std::move(committed), record] { deliver(committed, record); });
    }
    if (!prepared.empty()) {
      if (prepare.boundary == std::nullopt) declared_s_ = now_s_;
      const double arrives = sent(prepared.size(), prepared.size() * (kSmallBytes + 4 * prepare.excluded.size()), 0);
      later(arrives, [this, prepared = std::move(prepared), prepare] { deliver(prepared, prepare); });
    }
  }

  // Of so many messages with so many bytes together, in either direction.
  [[nodiscard]] double handling_s(std::size_t messages, std::uint64_t bytes) const {
    return std::max(static_cast<double>(bytes) / model_.bytes_per_s(),
                    static_cast<double>(messages) * to_seconds(model_.options().message_work));
  }

  // When the last of so many messages has arrived.
  double sent(std::size_t messages, std::uint64_t bytes, double work_s) {
    coordinator_free_s_ = std::max(coordinator_free_s_, now_s_) + work_s + handling_s(messages, bytes);
    return coordinator_free_s_ + to_seconds(model_.options().latency);
  }

  void answer(std::uint32_t worker, const CoordinatorEnvelope& envelope) {
    const double arrives = now_s_ + to_seconds(model_.options().latency);
    if (const auto* welcome = std::get_if<Welcome>(&envelope.message)) {
      const Incarnation incarnation = welcome->incarnation;
      later(arrives, [this, worker, incarnation] { welcomed(worker, incarnation); });
    } else if (std::holds_alternative<Probe>(envelope.message)) {
      later(arrives, [this, worker] {
        if (workers_[worker].there) heartbeat(worker);
      });
    } else if (std::holds_alternative<Fenced>(envelope.message)) {
      later(arrives, [this, worker] {
        if (!workers_[worker].there) return;
        leave_view(worker);
        register_worker(worker);
      });
    }
  }

  void start_plan(LayoutRequest request) {
    const double took = to_seconds(model_.options().planning_work);
    auto planned =
        std::make_shared<Result<PlannedLayout>>(plan_layout(request.model, request.cluster, request.options));
    later(now_s_ + took, [this, number = request.number, planned] {
      tell(coordinator_event::LayoutPlanned{number, std::move(*planned)});
    });
  }

  // ---- workers ----

  void happen(const CapacityEvent& event) {
    Worker& worker = workers_[event.worker];
    worker.there = event.joins;
    there_ += event.joins ? 1 : -1;
    if (event.joins) {
      register_worker(event.worker);
      return;
    }
    leave_view(event.worker);
    if (closes_connections(event.worker)) {
      later(now_s_ + to_seconds(model_.options().latency),
            [this, index = event.worker] { tell(coordinator_event::SessionLost{SessionId(index + 1)}); });
    }
  }

  // Drawn by the worker's number, so that all runs of a trace agree.
  [[nodiscard]] bool closes_connections(std::uint32_t index) const {
    return unit_float(philox(1, 0, index)[0]) >= model_.options().silent;
  }

  void leave_view(std::uint32_t index) {
    Worker& worker = workers_[index];
    if (worker.member) {
      --members_there_;
      schedule_.stop(WorkerId(index), now_s_);
      broken_ = true;
      broken_at_s_ = std::min(broken_at_s_, now_s_);
    }
    if (worker.staged) --staged_there_;
    worker.member = worker.staged = false;
  }

  void register_worker(std::uint32_t index) {
    Worker& worker = workers_[index];
    if (!worker.there) return;
    Register message;
    message.job = kJob;
    message.numeric_class = "fleet";
    message.host = "host-" + std::to_string(index);
    message.process_id = index + 1;
    message.resources.memory_bytes = model_.options().memory_bytes();
    message.resources.gflops = model_.gflops();
    message.address = ByteVector(kAddressBytes);
    if (worker.envelope) {
      message.identity = Identity{WorkerId(index), worker.envelope->incarnation, ViewNumber(0), worker.prepared};
    } else {
      message.wanted = WorkerId(index);
    }
    tell(index, std::move(message));
  }

  void welcomed(std::uint32_t index, Incarnation incarnation) {
    Worker& worker = workers_[index];
    if (!worker.there) return;
    worker.envelope = WorkerEnvelope{kProtocolVersion, WorkerId(index), incarnation, Heartbeat{}};
    heartbeat(index);
  }

  void heartbeats() {
    const std::uint64_t second = static_cast<std::uint64_t>(now_s_);
    if (second != last_second_) progress_(at(now_s_) - Instant{}, result_.steps);
    last_second_ = second;
    for (std::uint32_t i = 0; i < workers_.size(); ++i) {
      if (workers_[i].there && workers_[i].envelope) heartbeat(i);
    }
  }

  void heartbeat(std::uint32_t index) {
    Worker& worker = workers_[index];
    auto& beat = std::get<Heartbeat>(worker.envelope->message);
    if (worker.member) {
      beat.view = view_->view;
      beat.step = step_;
      beat.phase = computed_s_ <= now_s_ ? Phase::reduce : Phase::forward;
      ++beat.progress;
      if (worker.staged && beat.block_seconds.empty()) {
        beat.micro_batches_per_second = model_.speed();
        for (const double share : model_.shares())
          beat.block_seconds.push_back(static_cast<float>(share / model_.speed()));
      }
    }
    heartbeat_event_.session = SessionId(index + 1);
    heartbeat_event_.envelope = *worker.envelope;
    act(core_.on(heartbeat_event_, at(now_s_)));
  }

  // ---- view changes ----

  void deliver(const std::vector<std::uint32_t>& to, const Prepare& prepare) {
    if (prepare.view < prepared_) return;
    std::vector<std::uint32_t> reporters;
    for (const std::uint32_t index : to) {
      Worker& worker = workers_[index];
      if (!worker.there) continue;
      if (worker.member && prepare.boundary && step_ > *prepare.boundary && !holding_) {
        tell(index, BoundaryPassed{prepare.view, step_});  // all are at the same place: one tells it for all
        return;
      }
      worker.prepared = prepare.view;
      reporters.push_back(index);
    }
    prepared_ = prepare.view;
    boundary_ = prepare.boundary;
    if (prepare.boundary && !holding_) {
      held_reporters_ = std::move(reporters);
      return;
    }
    if (view_ && !stands_since_s_) {
      stands_since_s_ = now_s_;
      schedule_.fence(now_s_);
      note_exchanged();
    }
    ++step_epoch_;  // what was to end the step doesn't
    report_soon(std::move(reporters), prepare.view);
  }

  void report_soon(std::vector<std::uint32_t> reporters, ViewNumber view) {
    const double arrive =
        now_s_ + to_seconds(model_.options().latency) + handling_s(reporters.size(), reporters.size() * kReportBytes);
    later(arrive, [this, view, reported_s = now_s_, reporters = std::move(reporters)] {
      for (const std::uint32_t index : reporters) {
        const Worker& worker = workers_[index];
        if (worker.there && worker.prepared == view) tell(index, report(index, reported_s));
      }
    });
  }

  Report report(std::uint32_t index, double reported_s) {
    Worker& worker = workers_[index];
    Report report;
    report.prepare = worker.prepared;
    if (!worker.member) return report;
    report.view = view_->view;
    report.work_step = step_;
    report.released = holding_;
    receive(worker, reported_s);
    if (!worker.held.empty()) report.holdings.states.push_back({step_.previous(), worker.held, {}, {}});
    report.holdings.lineage = view_->resume.lineage;
    if (holding_) {
      for (const StageAssignment& stage : stages_of_[index]) report.stages.push_back({stage.work, 0});
    } else {
      for (const auto& [work, done] : schedule_.progress(WorkerId(index), reported_s)) {
        report.stages.push_back({work, done});
      }
      report.reduced = worker.reduced.runs();
    }
    return report;
  }

  // What has arrived until then of what it fetches.
  void receive(Worker& worker, double until_s) const {
    if (worker.fetches.empty()) return;
    const double whole = worker.fetch_until - worker.fetch_from;
    const double part = whole <= 0 ? 1 : std::clamp((until_s - worker.fetch_from) / whole, 0.0, 1.0);
    std::uint64_t tiles = 0;
    for (const StateFetch& fetch : worker.fetches) tiles += fetch.tiles.end - fetch.tiles.begin;
    auto left = static_cast<std::uint64_t>(part * static_cast<double>(tiles));
    TileSet held(worker.held);
    for (const StateFetch& fetch : worker.fetches) {
      const auto take = static_cast<std::uint32_t>(std::min<std::uint64_t>(left, fetch.tiles.end - fetch.tiles.begin));
      if (!fetch.parameters_only) held.add({fetch.tiles.begin, fetch.tiles.begin + take});
      left -= take;
    }
    worker.held = std::move(held).runs();
    worker.fetches.clear();
  }

  void deliver(const std::vector<std::uint32_t>& to, const std::shared_ptr<const ViewRecord>& record) {
    if (record->view != prepared_) return;  // another change overtook it
    ++result_.views;
    const ResumePlan& plan = record->resume;
    if (boundary_) {
      ++result_.planned_views;
    } else if (view_) {
      result_.change_s.push_back(now_s_ - declared_s_);
    }
    if (plan.tier > 0) ++result_.rollbacks;
    if (stands_since_s_) step_stood_s_ += now_s_ - *stands_since_s_;
    const bool goes_on = view_ && plan.step == step_ && !plan.discard && !holding_;
    if (view_) {
      for (const StageAssignment& stage : view_->stages) stages_of_[stage.worker.value()].clear();
    }
    view_ = record;
    stands_since_s_.reset();
    boundary_.reset();
    holding_ = false;
    if (plan.tier > 0) go_back_to(plan.step);
    step_ = plan.step;
    enter(to);
    if (!goes_on) forget_exchanged();
    if (goes_on) {
      schedule_.reassign(plan.stages, now_s_);
    } else {
      schedule_.assign(plan.stages);
    }
    start_fetches(plan);
    begin_step();
  }

  void go_back_to(Step step) {
    const std::uint64_t undone = std::min(result_.steps, step_.value() - step.value());
    result_.steps -= undone;
    result_.losses.recompute += static_cast<double>(undone) * model_.work_of_step();
    for (Worker& worker : workers_) {
      worker.held.clear();
      worker.fetches.clear();
    }
  }

  void enter(const std::vector<std::uint32_t>& to) {
    for (Worker& worker : workers_) worker.member = worker.staged = false;
    members_there_ = staged_there_ = 0;
    broken_ = false;
    broken_at_s_ = kNever;
    for (const StageAssignment& stage : view_->stages) {
      const std::uint32_t index = stage.worker.value();
      stages_of_[index].push_back(stage);
      workers_[index].staged = workers_[index].there;
      workers_[index].kept = stage.work.blocks;
    }
    for (const std::uint32_t index : to) {
      Worker& worker = workers_[index];
      if (!worker.there || worker.prepared != view_->view) continue;
      worker.member = true;
      ++members_there_;
    }
    for (const Member& member : view_->members) {
      Worker& worker = workers_[member.worker.value()];
      if (!worker.member) {
        broken_ = true;
        broken_at_s_ = now_s_;
        worker.staged = false;
      }
      if (worker.staged) ++staged_there_;
    }
  }

  void start_fetches(const ResumePlan& plan) {
    std::map<WorkerId, std::uint64_t> receives, sends;
    for (const StateFetch& fetch : plan.fetches) {
      workers_[fetch.worker.value()].fetches.push_back(fetch);
      if (fetch.source == StateSource::initialize) continue;
      const std::uint64_t bytes = model_.bytes_of(fetch.tiles, fetch.parameters_only);
      result_.moved_bytes += bytes;
      receives[fetch.worker] += bytes;
      if (fetch.source == StateSource::peer) sends[fetch.from] += bytes;
    }
    const double rate = model_.bytes_per_s();
    std::map<WorkerId, double> ready;
    for (const auto& [worker, bytes] : receives) ready[worker] = static_cast<double>(bytes) / rate;
    for (const StateFetch& fetch : plan.fetches) {
      const auto from = sends.find(fetch.from);
      if (fetch.source != StateSource::peer || from == sends.end()) continue;
      ready[fetch.worker] = std::max(ready[fetch.worker], static_cast<double>(from->second) / rate);
    }
    std::map<WorkerId, std::vector<BlockRange>> lacking;
    for (const StateFetch& fetch : plan.fetches) {
      const std::uint32_t first = model_.map().block_of(TileIndex(fetch.tiles.begin)).value();
      const std::uint32_t last = model_.map().block_of(TileIndex(fetch.tiles.end - 1)).value();
      std::vector<BlockRange>& blocks = lacking[fetch.worker];
      if (blocks.empty() || blocks.back().end < first) {
        blocks.push_back({first, last + 1});
      } else {
        blocks.back().end = std::max(blocks.back().end, last + 1);
      }
    }
    for (auto& [id, blocks] : lacking) {
      Worker& worker = workers_[id.value()];
      worker.fetch_from = now_s_;
      worker.fetch_until = now_s_ + ready[id];
      schedule_.fetches(id, worker.fetch_until, std::move(blocks));
    }
  }

  // ---- steps ----

  void begin_step() {
    schedule_.start(now_s_);
    for (const Member& member : view_->members) {
      if (!workers_[member.worker.value()].member) schedule_.stop(member.worker, now_s_);
    }
    const bool compute = view_->resume.step != step_ || view_->resume.compute;
    computed_s_ = compute ? schedule_.end_s() : now_s_;
    if (computed_s_ < kNever) {
      const double with = computed_s_ - now_s_;
      const double no_fetch = schedule_.end_without({.fetches = true}, now_s_) - now_s_;
      const double neither = schedule_.end_without({.fetches = true, .recomputing = true}, now_s_) - now_s_;
      step_fetch_s_ = with - no_fetch;
      step_recompute_s_ = no_fetch - neither;
    }
    const bool resumes = step_ == view_->resume.step;
    if (resumes || step_ == view_->resume.step.next()) {
      exchange_ = model_.exchange(resumes ? view_->resume.stages : view_->stages, view_->stages);
    }
    find_unreduced(resumes ? view_->resume.shards : view_->shards);
    const std::uint64_t epoch = ++step_epoch_;
    if (computed_s_ >= kNever) return;
    later(computed_s_ + reduce_s() + gather_s(), [this, epoch] {
      if (epoch == step_epoch_ && !broken_) step_done();
    });
  }

  // ---- the exchange: shards are finished in the order of their owners, as every worker sends in that order ----

  [[nodiscard]] double reduce_s() const { return exchange_.reduce * unreduced_part_; }
  [[nodiscard]] double gather_s() const { return exchange_.gather * (1 - gathered_part_); }

  void find_unreduced(std::span<const ShardAssignment> shards) {
    unreduced_.clear();
    std::uint64_t tiles = 0;
    for (const ShardAssignment& shard : shards) {
      if (shard.ready) continue;
      unreduced_[shard.owner].push_back(shard.tiles);
      tiles += shard.tiles.end - shard.tiles.begin;
    }
    unreduced_part_ = static_cast<double>(tiles) / model_.map().tile_count();
  }

  // What was exchanged before a member was gone, or the view was left.
  void note_exchanged() {
    const double passed = std::min(now_s_, broken_at_s_) - computed_s_;
    if (passed <= 0) return;
    const double reduced = reduce_s() > 0 ? std::min(1.0, passed / reduce_s()) : 1;
    auto owners = static_cast<std::size_t>(reduced * static_cast<double>(unreduced_.size()));
    for (const auto& [owner, tiles] : unreduced_) {
      if (owners-- == 0) break;
      for (const TileRange range : tiles) workers_[owner.value()].reduced.add(range);
    }
    if (reduced >= 1 && gather_s() > 0) {
      gathered_part_ += (1 - gathered_part_) * std::min(1.0, (passed - reduce_s()) / gather_s());
    }
  }

  void forget_exchanged() {
    for (Worker& worker : workers_) worker.reduced = {};
    gathered_part_ = 0;
  }

  void step_done() {
    account_step(true);
    forget_exchanged();
    const Step committed = step_;
    step_ = step_.next();
    for (Worker& worker : workers_) {
      if (!worker.member) continue;
      worker.fetches.clear();
      worker.held.clear();
      if (!worker.staged) continue;
      worker.held.push_back(model_.map().tiles_of(worker.kept));
    }
    StepCommitted message;
    message.view = view_->view;
    message.step = committed;
    message.loss = 1;
    for (std::uint32_t i = 0; i < workers_.size(); ++i) {
      if (workers_[i].member) tell(i, message);
    }
    if (boundary_ && committed >= *boundary_) {
      stands_since_s_ = now_s_;
      holding_ = true;
      report_soon(std::move(held_reporters_), prepared_);
      return;
    }
    schedule_.assign(view_->stages);
    begin_step();
  }

  // The capacity since the last step's end goes to what it was used for.
  void account_step(bool done) {
    const double passed = now_s_ - step_began_s_;
    Losses& losses = result_.losses;
    losses.absent += area_there_ - area_there_then_ - (area_members_ - area_members_then_);
    losses.spare += (area_members_ - area_members_then_) - (area_staged_ - area_staged_then_);
    const double staged = area_staged_ - area_staged_then_;
    if (done) {
      const double workers = passed > 0 ? staged / passed : 0;
      losses.change += workers * step_stood_s_;
      losses.fetch += workers * step_fetch_s_;
      losses.recompute += workers * step_recompute_s_;
      losses.uneven += staged - model_.work_of_step() - workers * (step_stood_s_ + step_fetch_s_ + step_recompute_s_);
      ++result_.steps;
    } else {
      losses.uneven += staged;
    }
    area_there_then_ = area_there_;
    area_members_then_ = area_members_;
    area_staged_then_ = area_staged_;
    step_began_s_ = now_s_;
    step_stood_s_ = step_fetch_s_ = step_recompute_s_ = 0;
  }

  const FleetModel& model_;
  const CapacityTrace& trace_;
  const Progress& progress_;
  CoordinatorCore core_;
  StepSchedule schedule_;
  FleetResult result_;
  std::vector<Worker> workers_;
  std::vector<std::vector<StageAssignment>> stages_of_;  // steady, by worker
  coordinator_event::SessionMessage heartbeat_event_;

  std::priority_queue<Later> queue_;
  std::uint64_t order_ = 0;
  double now_s_ = 0;
  std::uint64_t last_second_ = 0;
  double coordinator_free_s_ = 0;

  // All members are at the same place.
  std::shared_ptr<const ViewRecord> view_;
  ViewNumber prepared_;
  std::optional<Step> boundary_;
  std::vector<std::uint32_t> held_reporters_;
  bool holding_ = false;                  // at the boundary
  std::optional<double> stands_since_s_;  // the step's work
  bool broken_ = false;                   // a member is gone
  double broken_at_s_ = kNever;
  Step step_;
  std::uint64_t step_epoch_ = 0;
  double computed_s_ = kNever;
  ExchangeSeconds exchange_;                              // of the whole step
  std::map<WorkerId, std::vector<TileRange>> unreduced_;  // shards that are still to be finished
  double unreduced_part_ = 1, gathered_part_ = 0;         // of all tiles
  double declared_s_ = 0;

  std::int64_t there_ = 0, members_there_ = 0, staged_there_ = 0;
  double area_there_ = 0, area_members_ = 0, area_staged_ = 0;  // worker-seconds
  double area_there_then_ = 0, area_members_then_ = 0, area_staged_then_ = 0;
  double step_began_s_ = 0, step_stood_s_ = 0, step_fetch_s_ = 0, step_recompute_s_ = 0;
};

}  // namespace

FleetResult run_elastic(const FleetModel& model, const CapacityTrace& trace, const Progress& progress) {
  return ElasticFleet(model, trace, progress).run();
}

}  // namespace planaria::fleet
