// How long micro-batches take through a pipeline of stages.
//
// Forward, the inputs' gradients and the weights' gradients take about a third each of a stage's time, and the last of
// them fill gaps (zero-bubble pipelines: Qi et al. 2024, section 2; worker/trainer/micro_batch_runner.hpp). So p like
// stages stand still for about p / 3 micro-batches instead of p - 1 (1F1B), and a third longer for each micro-batch
// that there are fewer than stages. Where memory lets fewer gradients wait it takes longer, up to 1F1B's, which isn't
// reckoned.
//
// Thread contract: plain values, pure functions.
#pragma once

#include <cstdint>

namespace planaria::planner {

struct PipelineFlow {
  double fill = 0;    // seconds that the first micro-batch takes with the gaps around all, and besides micro-batches
  double period = 0;  // seconds that each further one adds
  double gap = 0;     // seconds that the gaps take more for each micro-batch of which there are fewer than stages
  std::uint32_t stages = 1;

  [[nodiscard]] double seconds(double micro_batches) const;
  // The reverse: the micro-batches that take so long, which need not be a whole number.
  [[nodiscard]] double micro_batches(double seconds) const;
};

// Of stages that take so many seconds for a micro-batch together, and the slowest of them.
[[nodiscard]] PipelineFlow flow_through(std::uint32_t stages, double together_s, double slowest_s);

}  // namespace planaria::planner
