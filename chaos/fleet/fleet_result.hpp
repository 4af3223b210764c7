// How well a fleet was used, and what became of the rest.
//
// Thread contract: plain values, pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/clock.hpp"

namespace planaria::fleet {

// Worker-seconds that were there and didn't train.
struct Losses {
  double absent = 0;     // of workers that wait to be taken in, or for the others
  double spare = 0;      // members without a stage
  double change = 0;     // the step's work stood still while a view was changed
  double fetch = 0;      // steps that were longer because state had to arrive
  double recompute = 0;  // steps that were longer because lost work was computed anew
  double uneven = 0;     // whole slots, shorter pipelines, stages that starved until a death was known

  [[nodiscard]] double sum() const { return absent + spare + change + fetch + recompute + uneven; }
};

struct FleetResult {
  std::string policy;
  double capacity = 0;  // worker-seconds
  std::uint64_t steps = 0;
  double work = 0;  // worker-seconds that the steps are worth
  Losses losses;
  std::uint64_t views = 0;
  std::uint64_t planned_views = 0;
  std::vector<double> change_s;  // of views after a loss: from Prepare's sending to the last member's commit
  std::uint64_t rollbacks = 0;   // views that went back behind a committed step
  std::uint64_t moved_bytes = 0;
  std::vector<double> view_bytes;  // that a member is sent of a view, on average
  std::string ended;               // why the run ended before the trace did; empty: it didn't

  [[nodiscard]] double goodput() const { return capacity > 0 ? work / capacity : 0; }
};

// Header and rows of `simulate --csv`; losses as parts of the capacity.
[[nodiscard]] std::string csv_header();
struct RunLabel {
  std::string trace;
  std::uint64_t seed = 0;
  std::uint32_t workers = 0;
  double hours = 0;
  std::uint64_t preemptions = 0;
};
[[nodiscard]] std::string csv_row(const RunLabel& label, const FleetResult& result);

// The p-th part, 0 to 1, of values in any order; 0 of none.
[[nodiscard]] double percentile(std::vector<double> values, double p);

}  // namespace planaria::fleet
