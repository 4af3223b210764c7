// Which layout the workers that are there shall train in: pipelines, their stages and blocks, their slots.
//
// A pure function of profiles, options and the previous layout: the same input gives the same layout on every machine
// (no clock, no randomness; ties go to the lower ids). It minimises predicted step seconds plus the amortised move and
// what losses are expected to cost. Few workers: proven optimal. Many: constructed and improved (planner/search.hpp).
//
// Thread contract: pure functions; any thread may call.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "coordinator/planner/layout_plan.hpp"

namespace planaria {

namespace planner {
class Evaluator;
}

// Above this part of the step lost to whole slots the reason warns.
inline constexpr double kGranularityWarning = 0.02;
inline constexpr std::uint32_t kMaxPlannedSlots = 65'536;

// A form of layout that lost.
struct PlanAlternative {
  std::string form;   // "2+1", or "250 x 4"
  bool fits = false;  // into memory
  double step_s = 0;
  std::string why;
};

struct PlannedLayout {
  LayoutPlan layout;
  Prediction prediction;
  std::vector<WorkerId> spares;  // have no stage
  bool proven = false;           // nothing better exists
  bool kept = false;             // the previous layout, unchanged
  std::uint64_t considered = 0;  // layouts that were scored
  std::string reason;
  std::vector<std::string> warnings;
  std::vector<PlanAlternative> alternatives;  // best first
};

// "2+1"; with many pipelines "248 x 4 + 2 x 3".
[[nodiscard]] std::string form_text(const LayoutPlan& layout);

// Judges layouts of one model and cluster, which it compiles once.
class LayoutJudge {
 public:
  // Errors as check_profiles() and for options that contradict each other. All outlive the judge.
  [[nodiscard]] static Result<LayoutJudge> make(const ModelProfile& model, const ClusterProfile& cluster,
                                                const PlanOptions& options);
  ~LayoutJudge();
  LayoutJudge(LayoutJudge&&) noexcept;
  LayoutJudge& operator=(LayoutJudge&&) noexcept;

  // Errors as check_layout(), here and below.
  [[nodiscard]] Result<Prediction> predict(const LayoutPlan& layout);
  // The same pipelines, with slots shared out anew for the least predicted step.
  [[nodiscard]] Result<LayoutPlan> share_out_slots(const LayoutPlan& layout);

 private:
  explicit LayoutJudge(std::unique_ptr<planner::Evaluator> evaluator);
  [[nodiscard]] Status check(const LayoutPlan& layout) const;

  std::unique_ptr<planner::Evaluator> evaluator_;
};

// exhausted: no layout fits into the workers' memory, or too few workers for the forced depths; the message tells what
// is needed. invalid_argument: profiles or options contradict themselves.
[[nodiscard]] Result<PlannedLayout> plan_layout(const ModelProfile& model, const ClusterProfile& cluster,
                                                const PlanOptions& options);

}  // namespace planaria
