// What every part of a simulation shares: options, time, chance, the reference run, the oracle's verdict, the trace.
//
// Thread contract: belongs to one simulation.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "chaos/sim/event_queue.hpp"
#include "chaos/sim/options.hpp"
#include "chaos/sim/terms.hpp"
#include "chaos/sim/trace.hpp"
#include "common/philox.hpp"

namespace planaria::sim {

using ProcessIndex = std::uint32_t;
inline constexpr ProcessIndex kCoordinatorNode = UINT32_MAX;

struct Violation {
  std::string invariant;  // "13: a finished slot is computed again"
  std::string detail;
  Instant at;
};

struct World {
  World(const SimOptions& run_options, std::size_t trace_lines)
      : options(run_options),
        noise(philox_key(run_options.seed, RandomPurpose::simulation), 1),
        reference(run_options.shape),
        trace(trace_lines) {}

  const SimOptions& options;
  EventQueue queue;
  PhiloxStream noise;
  ReferenceRun reference;
  Trace trace;
  std::optional<Violation> violation;
  bool beyond_promise = false;  // more was broken than anybody could notice: the run ends without a verdict

  [[nodiscard]] Instant now() const { return queue.now(); }

  // The first violation counts; what follows from it is noise.
  void fail(std::string invariant, std::string detail) {
    if (!violation) violation = Violation{std::move(invariant), std::move(detail), now()};
  }

  [[nodiscard]] Duration between(Duration low, Duration high) {
    const auto span = static_cast<std::uint64_t>((high - low).count());
    return low + Duration(static_cast<std::int64_t>(noise.below(span + 1)));
  }
  // Log-uniform around `typical`, from a third to three times of it.
  [[nodiscard]] Duration about(Duration typical) {
    const double factor = std::exp((noise.unit_double() * 2 - 1) * 1.0986);
    return Duration(static_cast<std::int64_t>(static_cast<double>(typical.count()) * factor));
  }
};

}  // namespace planaria::sim
