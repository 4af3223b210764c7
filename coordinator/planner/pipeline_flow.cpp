#include "coordinator/planner/pipeline_flow.hpp"

#include <algorithm>

namespace planaria::planner {
namespace {

// Of the stages' times for a micro-batch, what filling and emptying a pipeline costs.
constexpr double kUnfilled = 1.0 / 3;

}  // namespace

double PipelineFlow::seconds(double micro_batches) const {
  return fill + (micro_batches - 1) * period + std::max(0.0, stages - micro_batches) * gap;
}

double PipelineFlow::micro_batches(double seconds) const {
  const double many = (seconds - fill) / period + 1;
  return many >= stages ? many : (seconds - fill + period - stages * gap) / (period - gap);
}

PipelineFlow flow_through(std::uint32_t stages, double together_s, double slowest_s) {
  return {.fill = kUnfilled * together_s + (1 - kUnfilled) * slowest_s,
          .period = slowest_s,
          .gap = kUnfilled * together_s / stages,
          .stages = stages};
}

}  // namespace planaria::planner
