#include "coordinator/planner/planner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <map>

#include "coordinator/planner/evaluator.hpp"
#include "coordinator/planner/search.hpp"
#include "coordinator/planner/split.hpp"

namespace planaria {
namespace {

using planner::Candidate;
using planner::Evaluator;
using planner::Line;
using planner::Search;

constexpr std::size_t kShownForms = 6;
constexpr std::size_t kShownSpares = 8;
constexpr std::size_t kWrittenDepths = 8;

std::string seconds_text(double seconds) {
  if (seconds >= 1) return fmt::format("{:.3g} s", seconds);
  if (seconds >= 1e-3) return fmt::format("{:.3g} ms", seconds * 1e3);
  return fmt::format("{:.3g} us", seconds * 1e6);
}

std::string bytes_text(double bytes) {
  if (bytes >= 1e9) return fmt::format("{:.2f} GB", bytes / 1e9);
  if (bytes >= 1e6) return fmt::format("{:.1f} MB", bytes / 1e6);
  return fmt::format("{:.1f} kB", bytes / 1e3);
}

Status check_options(const ModelProfile& model, const ClusterProfile& cluster, const PlanOptions& options) {
  const auto refuse = [](std::string why) { return Error(ErrorCode::invalid_argument, std::move(why)); };
  if (!std::has_single_bit(options.slots) || options.slots > kMaxPlannedSlots ||
      options.micro_batches % options.slots != 0 || options.micro_batches == 0) {
    return refuse(fmt::format("{} micro-batches in {} slots: slots are a power of two up to {} that divides them",
                              options.micro_batches, options.slots, kMaxPlannedSlots));
  }
  if (!(options.amortisation_steps > 0) || !(options.hysteresis_gain >= 0) || options.state_generations == 0 ||
      !(options.losses_per_s >= 0)) {
    return refuse("amortisation steps and state generations are above 0, the gain and expected losses are 0 or more");
  }
  std::uint64_t needed = 0;
  for (const std::uint32_t depth : options.forced_depths) {
    needed += depth;
    if (depth == 0 || depth > model.blocks.size()) {
      return refuse(fmt::format("a pipeline of {} stages: the model has {} blocks, one at least for each stage", depth,
                                model.blocks.size()));
    }
  }
  if (options.forced_depths.size() > options.slots) {
    return refuse(
        fmt::format("{} pipelines for {} slots: each needs one at least", options.forced_depths.size(), options.slots));
  }
  if (cluster.workers.empty()) return Error(ErrorCode::exhausted, "there are no workers; at least one is needed");
  if (needed > cluster.workers.size()) {
    return Error(ErrorCode::exhausted,
                 fmt::format("the forced layout needs {} workers and there are {}", needed, cluster.workers.size()));
  }
  return ok_status();
}

bool of_forced_form(const LayoutPlan& layout, const PlanOptions& options) {
  if (options.forced_depths.empty()) return true;
  std::vector<std::uint32_t> depths;
  for (const PlanPipeline& pipeline : layout.pipelines) {
    depths.push_back(static_cast<std::uint32_t>(pipeline.stages.size()));
  }
  auto forced = options.forced_depths;
  std::ranges::sort(depths);
  std::ranges::sort(forced);
  return depths == forced;
}

// The previous layout without the workers that are gone; their blocks go to a neighbour, and pipelines without any
// worker vanish. A start for the search, near to what workers hold already.
Candidate repaired(const Evaluator& evaluator, const LayoutPlan& previous) {
  const auto& workers = evaluator.cluster().workers;
  Candidate candidate;
  for (const PlanPipeline& pipeline : previous.pipelines) {
    Line line;
    for (const PlanStage& stage : pipeline.stages) {
      const auto found = std::ranges::lower_bound(workers, stage.worker, {}, &WorkerProfile::worker);
      if (found == workers.end() || found->worker != stage.worker) continue;
      line.workers.push_back(static_cast<std::uint32_t>(found - workers.begin()));
    }
    line.slots = std::max(pipeline.slots.size(), 1U);
    if (!line.workers.empty()) candidate.push_back(std::move(line));
  }
  return candidate;
}

std::string lacking(const PlannedLayout& planned, const ClusterProfile& cluster) {
  double most = 0;
  std::string text;
  for (const WorkerPrediction& worker : planned.prediction.workers) {
    const WorkerProfile* const profile = find_worker(cluster, worker.worker);
    const double lack = static_cast<double>(worker.memory_bytes) - static_cast<double>(profile->memory_bytes);
    if (lack <= most) continue;
    most = lack;
    text = fmt::format("worker {} would need {} and has {}", worker.worker.value(),
                       bytes_text(static_cast<double>(worker.memory_bytes)),
                       bytes_text(static_cast<double>(profile->memory_bytes)));
  }
  return text;
}

Error does_not_fit(const PlannedLayout& nearest, const ModelProfile& model, const ClusterProfile& cluster,
                   const PlanOptions& options) {
  double needed = 0;
  double present = 0;
  for (const WorkerPrediction& worker : nearest.prediction.workers) needed += static_cast<double>(worker.memory_bytes);
  for (const WorkerProfile& worker : cluster.workers) present += static_cast<double>(worker.memory_bytes);
  std::string help = "add workers or memory";
  if (!options.shard_optimizer) help += ", shard the optimizer's state";
  if (!options.forced_depths.empty()) help += ", let the layout be chosen";
  return {
      ErrorCode::exhausted,
      fmt::format("no layout fits into memory: nearest is {}, where {}; all its stages need {} together, and the {} "
                  "workers have {} (the model has {} blocks, which aren't split); {}",
                  form_text(nearest.layout), lacking(nearest, cluster), bytes_text(needed), cluster.workers.size(),
                  bytes_text(present), model.blocks.size(), help)};
}

std::string parts_text(const Prediction& prediction) {
  return fmt::format("computing {}, reducing {}, gathering {}", seconds_text(prediction.compute_s),
                     seconds_text(prediction.reduce_s), seconds_text(prediction.gather_s));
}

// What makes a form lose against the chosen one.
std::string why_lost(const Prediction& lost, const Prediction& chosen) {
  const double dearer = 100 * (lost.cost_s / chosen.cost_s - 1);
  const double compute = lost.compute_s - chosen.compute_s;
  const double exchange = lost.reduce_s + lost.gather_s - chosen.reduce_s - chosen.gather_s;
  const double move = lost.move_s - chosen.move_s;
  const double losses = lost.loss_s - chosen.loss_s;
  std::string cause = "computing takes longer";
  if (exchange > compute && exchange > 0) cause = "exchanging sums and values takes longer";
  if (losses > std::max(compute, exchange) && losses > 0) cause = "a loss empties longer pipelines";
  if (move > 0 && compute <= 0 && exchange <= 0) cause = "moving there costs more than it gains";
  if (lost.state_kept_once && !chosen.state_kept_once) {
    return fmt::format("each worker would be alone with its state: what it held would be lost with it ({})",
                       parts_text(lost));
  }
  return fmt::format("{:.1f} % dearer: {} ({})", dearer, cause, parts_text(lost));
}

void explain_alternatives(Evaluator& evaluator, const Search& search, PlannedLayout& planned,
                          const ClusterProfile& cluster) {
  std::vector<const planner::Found*> others;
  for (const auto& [depths, found] : search.alternatives) {
    if (form_text(evaluator.layout(found.candidate)) != form_text(planned.layout)) others.push_back(&found);
  }
  std::ranges::stable_sort(others, [](const auto* a, const auto* b) { return a->score.better_than(b->score); });
  if (others.size() > kShownForms) others.resize(kShownForms);
  for (const planner::Found* other : others) {
    PlannedLayout lost{.layout = evaluator.layout(other->candidate), .prediction = evaluator.predict(other->candidate)};
    PlanAlternative alternative{form_text(lost.layout), other->score.fits(), lost.prediction.step_s, {}};
    alternative.why =
        alternative.fits ? why_lost(lost.prediction, planned.prediction) : "doesn't fit: " + lacking(lost, cluster);
    planned.alternatives.push_back(std::move(alternative));
  }
}

void find_spares(PlannedLayout& planned, const ClusterProfile& cluster) {
  for (const WorkerProfile& worker : cluster.workers) {
    if (!std::ranges::binary_search(planned.prediction.workers, worker.worker, {}, &WorkerPrediction::worker)) {
      planned.spares.push_back(worker.worker);
    }
  }
  if (planned.spares.empty()) return;
  std::string names;
  for (std::size_t i = 0; i < std::min(planned.spares.size(), kShownSpares); ++i) {
    names += fmt::format("{}{}", i == 0 ? "" : ", ", planned.spares[i].value());
  }
  if (planned.spares.size() > kShownSpares) names += fmt::format(" and {} more", planned.spares.size() - kShownSpares);
  planned.warnings.push_back(
      fmt::format("spare: worker {}: with a stage for them, the step would take longer or not fit", names));
}

void explain(PlannedLayout& planned, const PlanOptions& options, const std::string& decision) {
  const Prediction& prediction = planned.prediction;
  planned.reason = fmt::format("{}: {}; predicted step {} ({})", form_text(planned.layout), decision,
                               seconds_text(prediction.step_s), parts_text(prediction));
  if (prediction.move_bytes > 0) {
    planned.reason += fmt::format("; moves {} in about {}", bytes_text(static_cast<double>(prediction.move_bytes)),
                                  seconds_text(prediction.move_s));
  }
  if (!planned.alternatives.empty()) {
    planned.reason += fmt::format("; next best {}: {}", planned.alternatives[0].form, planned.alternatives[0].why);
  }
  if (prediction.granularity_loss > kGranularityWarning) {
    planned.warnings.push_back(
        fmt::format("whole slots cost {:.1f} % of the computing time: {} pipelines share {} slots; more slots "
                    "(batch.slots, batch.micro_batches) "
                    "would share out more evenly",
                    100 * prediction.granularity_loss, planned.layout.pipelines.size(), options.slots));
  }
  if (planned.layout.pipelines.size() == 1) {
    planned.warnings.emplace_back("every block has one owner: what a lost worker held has to come from a snapshot");
  } else if (prediction.on_one_host > 0) {
    planned.warnings.push_back(
        fmt::format("{:.0f} % of the blocks have all their owners on one host", 100 * prediction.on_one_host));
  }
}

}  // namespace

std::string form_text(const LayoutPlan& layout) {
  if (layout.pipelines.size() <= kWrittenDepths) return depths_text(layout);
  std::map<std::size_t, std::size_t, std::greater<>> counts;
  for (const PlanPipeline& pipeline : layout.pipelines) ++counts[pipeline.stages.size()];
  std::string text;
  for (const auto& [depth, count] : counts) text += fmt::format("{}{} x {}", text.empty() ? "" : " + ", count, depth);
  return text;
}

LayoutJudge::LayoutJudge(std::unique_ptr<Evaluator> evaluator) : evaluator_(std::move(evaluator)) {}
LayoutJudge::~LayoutJudge() = default;
LayoutJudge::LayoutJudge(LayoutJudge&&) noexcept = default;
LayoutJudge& LayoutJudge::operator=(LayoutJudge&&) noexcept = default;

Result<LayoutJudge> LayoutJudge::make(const ModelProfile& model, const ClusterProfile& cluster,
                                      const PlanOptions& options) {
  PLANARIA_TRY(check_profiles(model, cluster));
  PLANARIA_TRY(check_options(model, cluster, options));
  return LayoutJudge(std::make_unique<Evaluator>(model, cluster, options));
}

Status LayoutJudge::check(const LayoutPlan& layout) const {
  return check_layout(layout, evaluator_->model(), evaluator_->cluster(), evaluator_->slots());
}

Result<Prediction> LayoutJudge::predict(const LayoutPlan& layout) {
  PLANARIA_TRY(check(layout));
  return evaluator_->predict(evaluator_->compile(layout));
}

Result<LayoutPlan> LayoutJudge::share_out_slots(const LayoutPlan& layout) {
  PLANARIA_TRY(check(layout));
  Candidate candidate = evaluator_->compile(layout);
  static_cast<void>(tune_slots(*evaluator_, candidate));
  return evaluator_->layout(candidate);
}

Result<Prediction> predict(const LayoutPlan& layout, const ModelProfile& model, const ClusterProfile& cluster,
                           const PlanOptions& options) {
  PLANARIA_ASSIGN(LayoutJudge judge, LayoutJudge::make(model, cluster, options));
  return judge.predict(layout);
}

Result<PlannedLayout> plan_layout(const ModelProfile& model, const ClusterProfile& cluster,
                                  const PlanOptions& options) {
  PLANARIA_TRY(check_profiles(model, cluster));
  PLANARIA_TRY(check_options(model, cluster, options));
  Evaluator evaluator(model, cluster, options);
  std::vector<Candidate> starts;
  planner::Found previous;
  if (options.previous && of_forced_form(*options.previous, options)) {
    if (check_layout(*options.previous, model, cluster, options.slots)) {
      previous.candidate = evaluator.compile(*options.previous);
      previous.score = evaluator.score(previous.candidate);
    }
    if (Candidate start = repaired(evaluator, *options.previous);
        options.forced_depths.empty() || of_forced_form(evaluator.layout(previous.candidate), options)) {
      starts.push_back(std::move(start));
    }
  }
  const bool exact = options.search != SearchMode::local;
  const Search search = exact ? search_exactly(evaluator, starts) : search_locally(evaluator, starts);

  PlannedLayout planned;
  planned.considered = search.scored;
  planned.proven = search.proven;
  const bool kept =
      previous.score.fits() && search.best.score.cost_s > previous.score.cost_s * (1 - options.hysteresis_gain);
  if (search.best.candidate.empty()) return Error(ErrorCode::exhausted, "no layout has the form that is asked for");
  const Candidate& chosen = kept ? previous.candidate : search.best.candidate;
  planned.kept = kept;
  planned.layout = evaluator.layout(chosen);
  planned.prediction = evaluator.predict(chosen);
  if (!kept && !search.best.score.fits()) return does_not_fit(planned, model, cluster, options);
  find_spares(planned, cluster);
  explain_alternatives(evaluator, search, planned, cluster);
  std::string decision = planned.proven ? "proven best" : "best found";
  if (!options.forced_depths.empty()) decision += " of the forced form";
  if (kept) {
    const double gain = std::max(0.0, 1 - search.best.score.cost_s / previous.score.cost_s);
    decision = fmt::format("the previous layout is kept, as the best other gains {:.1f} % and {:.1f} % are asked for",
                           100 * gain, 100 * options.hysteresis_gain);
  }
  explain(planned, options, decision);
  return planned;
}

}  // namespace planaria
