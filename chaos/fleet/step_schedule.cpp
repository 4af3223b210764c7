#include "chaos/fleet/step_schedule.hpp"

#include <algorithm>
#include <cmath>

namespace planaria::fleet {

std::uint32_t StepSchedule::Column::done_at(double at_s) const {
  const double flowed = std::floor((std::min(at_s, frozen) - start - fill) / period + 1e-9);
  return before + static_cast<std::uint32_t>(std::clamp(flowed, 0.0, static_cast<double>(slots)));
}

void StepSchedule::assign(std::span<const StageAssignment> stages, const Done& done) {
  columns_.clear();
  fetches_.clear();
  for (const StageAssignment& stage : stages) {
    if (stage.work.empty()) continue;
    const bool joins = !columns_.empty() && columns_.back().recompute == stage.recompute &&
                       columns_.back().stages.back().work.slots == stage.work.slots &&
                       columns_.back().stages.back().work.blocks.end <= stage.work.blocks.begin;
    if (!joins) {
      columns_.emplace_back();
      columns_.back().recompute = stage.recompute;
    }
    Column& column = columns_.back();
    const auto had = done.find({stage.worker, stage.work});
    const std::uint32_t before = had == done.end() ? 0 : had->second;
    column.before = column.stages.empty() ? before : std::min(column.before, before);
    column.stages.push_back(stage);
    const double seconds = model_->seconds_of(stage.work.blocks);
    column.fill += seconds;
    column.period = std::max(column.period, seconds);
  }
  std::stable_partition(columns_.begin(), columns_.end(), [](const Column& column) { return column.recompute; });
  columns_of_.clear();
  for (std::uint32_t c = 0; c < columns_.size(); ++c) {
    Column& column = columns_[c];
    column.fill -= column.period;
    column.slots = column.stages.front().work.slots.size() - column.before;
    for (const StageAssignment& stage : column.stages) {
      if (stage.worker.value() >= columns_of_.size()) columns_of_.resize(stage.worker.value() + 1);
      columns_of_[stage.worker.value()].push_back(c);
    }
  }
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

StepSchedule::Done StepSchedule::done(double at_s) const {
  Done done;
  for (const Column& column : columns_) {
    const std::uint32_t slots = column.done_at(at_s);
    if (slots == 0) continue;
    for (const StageAssignment& stage : column.stages) done[{stage.worker, stage.work}] = slots;
  }
  return done;
}

}  // namespace planaria::fleet
