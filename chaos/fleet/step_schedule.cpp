#include "chaos/fleet/step_schedule.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

namespace planaria::fleet {

std::uint32_t StepSchedule::Column::done_at(double at_s) const {
  const double done = std::floor(flow.micro_batches(flowed_at(at_s)) + 1e-9);
  return before + static_cast<std::uint32_t>(std::clamp(done, 0.0, static_cast<double>(slots)));
}

void StepSchedule::assign(std::span<const StageAssignment> stages) {
  columns_.clear();
  reassign(stages, 0);
}

void StepSchedule::reassign(std::span<const StageAssignment> stages, double at_s) {
  using Key = std::pair<WorkerId, StageWork>;
  const std::vector<Column> old = std::exchange(columns_, {});
  std::map<Key, std::pair<const Column*, std::uint32_t>> done;  // by stage
  for (const Column& column : old) {
    for (const StageAssignment& stage : column.stages) {
      done[{stage.worker, stage.work}] = {&column, column.done_at(at_s)};
    }
  }
  fetches_.clear();
  std::vector<StageAssignment> work(stages.begin(), stages.end());
  std::erase_if(work, [](const StageAssignment& stage) { return stage.work.empty(); });
  for (StageAssignment& stage : work) {
    const auto had = done.find({stage.worker, stage.work});
    if (had != done.end()) stage.recompute = had->second.first->recompute;
  }
  // Lost work comes first. A pipeline's stages need not come one after another: some were taken over.
  std::ranges::stable_sort(work, {}, [](const StageAssignment& stage) {
    return std::tuple(!stage.recompute, stage.work.slots.begin, stage.work.slots.end, stage.work.blocks.begin);
  });
  for (const StageAssignment& stage : work) {
    const bool joins = !columns_.empty() && columns_.back().recompute == stage.recompute &&
                       columns_.back().stages.back().work.slots == stage.work.slots &&
                       columns_.back().stages.back().work.blocks.end <= stage.work.blocks.begin;
    if (!joins) {
      columns_.emplace_back();
      columns_.back().recompute = stage.recompute;
    }
    columns_.back().stages.push_back(stage);
  }
  columns_of_.clear();
  const auto key = [](const StageAssignment& stage) { return Key(stage.worker, stage.work); };
  for (std::uint32_t c = 0; c < columns_.size(); ++c) {
    Column& column = columns_[c];
    const auto had = done.find(key(column.stages.front()));
    if (had != done.end() && std::ranges::equal(column.stages, had->second.first->stages, {}, key, key)) {
      const Column& before = *had->second.first;
      column.flow = before.flow;
      column.before = before.before;
      column.slots = before.slots;
      column.flowed = before.flowed_at(at_s);
    } else {
      column.flow = flow_of(column.stages);
      column.before = std::numeric_limits<std::uint32_t>::max();
      for (const StageAssignment& stage : column.stages) {
        const auto of_stage = done.find(key(stage));
        column.before = std::min(column.before, of_stage == done.end() ? 0 : of_stage->second.second);
      }
      column.slots = column.stages.front().work.slots.size() - column.before;
    }
    for (const StageAssignment& stage : column.stages) {
      if (stage.worker.value() >= columns_of_.size()) columns_of_.resize(stage.worker.value() + 1);
      columns_of_[stage.worker.value()].push_back(c);
    }
  }
}

planner::PipelineFlow StepSchedule::flow_of(std::span<const StageAssignment> stages) const {
  double together = 0, slowest = 0;
  for (const StageAssignment& stage : stages) {
    const double seconds = model_->seconds_of(stage.work.blocks);
    together += seconds;
    slowest = std::max(slowest, seconds);
  }
  const auto count = static_cast<std::uint32_t>(stages.size());
  planner::PipelineFlow flow = planner::flow_through(count, together, slowest);
  if (count > 1) {
    flow.fill += (count - 1) * 2 * model_->border_s();
    flow.period = std::max(flow.period, model_->border_s());
  }
  return flow;
}

void StepSchedule::fetches(WorkerId worker, double ready_s, std::vector<BlockRange> blocks) {
  fetches_[worker] = {ready_s, std::move(blocks)};
}

double StepSchedule::ready(const StageAssignment& stage) const {
  const auto found = fetches_.find(stage.worker);
  if (found == fetches_.end()) return 0;
  const bool lacks = std::ranges::any_of(found->second.blocks, [&](BlockRange blocks) {
    return blocks.begin < stage.work.blocks.end && stage.work.blocks.begin < blocks.end;
  });
  return lacks ? found->second.ready : 0;
}

template <class Visit>
double StepSchedule::flow(ScheduleWithout what, double begin_s, Visit visit) const {
  std::vector<double> free(columns_of_.size(), begin_s);
  double last = begin_s;
  for (const Column& column : columns_) {
    if (what.recomputing && column.recompute) continue;
    Column run = column;
    run.start = begin_s;
    for (const StageAssignment& stage : column.stages) {
      run.start = std::max(run.start, free[stage.worker.value()]);
      if (!what.fetches) run.start = std::max(run.start, ready(stage));
    }
    const double end = run.end();
    for (const StageAssignment& stage : column.stages) free[stage.worker.value()] = end;
    last = std::max(last, end);
    visit(column, run.start);
  }
  // Nobody commits a step whose base it lacks.
  if (!what.fetches) {
    for (const auto& [worker, fetch] : fetches_) last = std::max(last, fetch.ready);
  }
  return last;
}

void StepSchedule::start(double begin_s) {
  std::vector<double> starts;
  flow({}, begin_s, [&](const Column&, double at_s) { starts.push_back(at_s); });
  for (std::size_t c = 0; c < columns_.size(); ++c) columns_[c].start = starts[c];
}

void StepSchedule::stop(WorkerId worker, double at_s) {
  if (worker.value() >= columns_of_.size()) return;
  for (const std::uint32_t c : columns_of_[worker.value()]) {
    columns_[c].frozen = std::min(columns_[c].frozen, at_s);
    columns_[c].broken = true;
  }
}

void StepSchedule::fence(double at_s) {
  for (Column& column : columns_) {
    if (column.stages.size() > 1) column.frozen = std::min(column.frozen, at_s);
  }
}

double StepSchedule::end_s() const {
  double last = 0;
  for (const Column& column : columns_) {
    if (column.broken) return kNever;
    last = std::max(last, column.end());
  }
  for (const auto& [worker, fetch] : fetches_) last = std::max(last, fetch.ready);
  return last;
}

double StepSchedule::end_without(ScheduleWithout what, double begin_s) const {
  return flow(what, begin_s, [](const Column&, double) {});
}

std::vector<std::pair<StageWork, std::uint32_t>> StepSchedule::progress(WorkerId worker, double at_s) const {
  std::vector<std::pair<StageWork, std::uint32_t>> done;
  if (worker.value() >= columns_of_.size()) return done;
  for (const std::uint32_t c : columns_of_[worker.value()]) {
    for (const StageAssignment& stage : columns_[c].stages) {
      if (stage.worker == worker) done.emplace_back(stage.work, columns_[c].done_at(at_s));
    }
  }
  return done;
}

}  // namespace planaria::fleet
