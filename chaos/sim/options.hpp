// One simulated run as data: the job, the cluster, the noise and the faults, all drawn from a seed.
//
// Thread contract: plain values.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "chaos/sim/terms.hpp"
#include "common/clock.hpp"
#include "proto/job_spec.hpp"
#include "proto/mutation.hpp"
#include "proto/relays.hpp"

namespace planaria::sim {

// Where a worker is when a fault strikes.
enum class SimPhase : std::uint8_t {
  joining,
  fetch,
  forward,
  backward,
  reduce,
  gate,
  update,
  commit,
  change,  // between Prepare and the next view's commit
  finish,
  count_
};
inline constexpr std::size_t kSimPhases = static_cast<std::size_t>(SimPhase::count_);
[[nodiscard]] const char* to_string(SimPhase phase);

enum class FaultKind : std::uint8_t {
  kill,              // a process, or all of its host's
  kill_and_restart,  // the process comes back without its memory
  kill_several,      // two or more at once, perhaps all
  freeze,            // shorter or longer than the lease
  drain,
  join,
  slow,
  partition,  // between two workers, both ways
  partition_one_way,
  isolate,  // a worker from the coordinator
  session_loss,
  connection_loss,    // a data-plane connection breaks and loses what it carried
  drop,               // a frame vanishes
  corrupt,            // a frame arrives damaged
  delay,              // a link becomes slow for a while
  nan,                // one gradient is nonfinite, or all that the victim computes from now on
  flip_state,         // a wrong value in a state: written by an update, or there after it was compared
  flip_gradient,      // a wrong value in the reduced gradient of one of its keepers
  disk_full,          // checkpoints fail for a while
  damage_checkpoint,  // the newest checkpoint can't be read
  kill_coordinator,
  freeze_coordinator,
  slow_disk,  // the coordinator's log syncs slowly for a while
  count_
};
inline constexpr std::size_t kFaultKinds = static_cast<std::size_t>(FaultKind::count_);
[[nodiscard]] const char* to_string(FaultKind kind);

enum class TriggerKind : std::uint8_t {
  step_phase,      // the victim is in `phase`, at `step` or later
  prepared,        // the coordinator logs its n-th Prepare
  view_committed,  // ... its n-th view
  after_previous,  // `delay` after the previous fault of the list
};

struct Fault {
  FaultKind kind = FaultKind::kill;
  TriggerKind trigger = TriggerKind::step_phase;
  std::uint64_t step = 1;
  SimPhase phase = SimPhase::forward;
  std::uint32_t nth = 1;
  Duration delay{};
  std::uint32_t after_actions = 0;  // it strikes between two actions: after so many more of them
  std::uint32_t victim = 0;         // picks among those that live at that time
  std::uint32_t other = 0;
  Duration lasts{};
  bool flag = false;  // a choice within the kind

  [[nodiscard]] std::string describe() const;
};

struct SimOptions {
  std::uint64_t seed = 0;
  MutationSet mutations;
  JobSpec job;
  JobShape shape;
  std::vector<Duration> starts;   // of the first workers
  std::vector<Duration> keepers;  // of their hosts, from the first on
  std::vector<double> slowness;   // of worker processes, by order, repeated
  std::vector<Fault> faults;
  std::vector<Duration> rescues;   // workers that start this long after the last fault, so that the job can end
  bool shared_checkpoints = true;  // one directory for all, else one a host
  bool known_speeds = false;       // workers tell what their devices can do when they register
  std::uint64_t memory_bytes = 0;  // of each worker; 0: none tells
  std::size_t direct_members = kDirectMembers;  // of a view without relays
  double duplicate_chance = 0;                  // of a frame
  double slow_frame_chance = 0;                 // a frame that others overtake by far
  double late_read_chance = 0.25;               // the network reads a buffer at the latest moment
  double late_handover_chance = 0;  // a frame passed the transport's checks and its event is late, out of order
  Duration micro_batch{};
  Duration latency{};  // typical, of a frame or message
  Duration sync_latency{};

  [[nodiscard]] std::string describe() const;
};

// min_… <= max_…
struct OptionLimits {
  std::uint32_t min_workers = 3;
  std::uint32_t max_workers = 16;
  std::uint32_t min_faults = 3;
  std::uint32_t max_faults = 7;
  std::uint64_t min_steps = 20;
};

[[nodiscard]] SimOptions draw_options(std::uint64_t seed, const OptionLimits& limits = {});

}  // namespace planaria::sim
