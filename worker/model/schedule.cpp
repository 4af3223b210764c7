#include "worker/model/schedule.hpp"

#include <algorithm>
#include <numbers>

#include "kernels/elementary.hpp"

namespace planaria {

double learning_rate(const OptimizerSpec& optimizer, std::uint64_t total_steps, Step step) {
  const std::uint64_t t = std::min(step.value(), std::max<std::uint64_t>(total_steps, 1));
  const double top = optimizer.learning_rate;
  const double bottom = optimizer.min_learning_rate;
  if (t <= optimizer.warmup_steps) return top * static_cast<double>(t) / static_cast<double>(optimizer.warmup_steps);
  switch (optimizer.schedule) {
    case ScheduleKind::cosine: {
      const double progress =
          static_cast<double>(t - optimizer.warmup_steps) / static_cast<double>(total_steps - optimizer.warmup_steps);
      return bottom + (top - bottom) * 0.5 * (1.0 + det_cos(std::numbers::pi * progress));
    }
    case ScheduleKind::wsd: {
      const auto decay_steps = static_cast<std::uint64_t>(static_cast<double>(total_steps) * optimizer.decay_fraction);
      const std::uint64_t decay_from = total_steps - decay_steps;
      if (t <= decay_from) return top;
      const double progress = static_cast<double>(t - decay_from) / static_cast<double>(decay_steps);
      return top + (bottom - top) * progress;
    }
    case ScheduleKind::constant:
    case ScheduleKind::count_:
      break;
  }
  return top;
}

double bias_correction(double beta, Step step) {
  double power = 1.0;  // by repeated squaring
  for (std::uint64_t rest = step.value(); rest != 0; rest >>= 1) {
    if ((rest & 1) != 0) power *= beta;
    beta *= beta;
  }
  return 1.0 - power;
}

}  // namespace planaria
