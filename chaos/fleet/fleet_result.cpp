#include "chaos/fleet/fleet_result.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace planaria::fleet {

double percentile(std::vector<double> values, double p) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(p * static_cast<double>(values.size() - 1))];
}

std::string csv_header() {
  return "policy,trace,seed,workers,hours,preemptions,steps,goodput,lost_absent,lost_spare,lost_change,lost_fetch,"
         "lost_recompute,lost_uneven,views,planned_views,change_p50_s,change_p95_s,rollbacks,moved_gb,ended";
}

std::string csv_row(const RunLabel& label, const FleetResult& result) {
  const auto part = [&](double seconds) { return result.capacity > 0 ? seconds / result.capacity : 0; };
  const Losses& lost = result.losses;
  return fmt::format(
      "{},{},{},{},{:.3f},{},{},{:.4f},{:.4f},{:.4f},{:.4f},{:.4f},{:.4f},{:.4f},{},{},{:.3f},{:.3f},{},"
      "{:.1f},\"{}\"",
      result.policy, label.trace, label.seed, label.workers, label.hours, label.preemptions, result.steps,
      result.goodput(), part(lost.absent), part(lost.spare), part(lost.change), part(lost.fetch), part(lost.recompute),
      part(lost.uneven), result.views, result.planned_views, percentile(result.change_s, 0.5),
      percentile(result.change_s, 0.95), result.rollbacks, static_cast<double>(result.moved_bytes) / 1e9, result.ended);
}

}  // namespace planaria::fleet
