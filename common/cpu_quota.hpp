// How much processor time the system lets this process have: control groups' bandwidth limits, of version 2 (cpu.max)
// and 1 (cpu.cfs_quota_us, cpu.cfs_period_us). See cgroups(7) and the kernel's scheduler/sched-bwc.
//
// Thread contract: cpu_quota is a pure function of the system; a QuotaTimer belongs to one thread.
#pragma once

#include <limits>
#include <string>
#include <utility>

#include "common/clock.hpp"

namespace planaria {

struct ControlGroupFiles {
  std::string of_process = "/proc/self/cgroup";
  std::string root = "/sys/fs/cgroup";
};

// Processors' worth of time: the tightest limit of the process's groups and of those around them; infinity without one,
// and where the system doesn't tell.
[[nodiscard]] double cpu_quota(const ControlGroupFiles& files = {});

// The processor time that work needs, and how long the system takes to grant it, as often as it is done: what is done
// now and then lasts less, as time that wasn't used in a period of the limit is there at once.
class QuotaTimer {
 public:
  explicit QuotaTimer(ControlGroupFiles files = {}) : files_(std::move(files)) {}

  // The limit is looked at again from time to time: it may be changed while a process runs.
  void begin();
  // Since then, with what other threads of the process spent beside; 0 without a limit.
  [[nodiscard]] Duration spent() const;
  // How long that much takes by the limit that was found last; 0 without one.
  [[nodiscard]] Duration granted_in(Duration spent) const;

 private:
  const ControlGroupFiles files_;
  const SteadyClock clock_;
  const ProcessorClock processor_{1};
  double quota_ = std::numeric_limits<double>::infinity();  // processors' worth
  Instant look_at_{};
  Instant began_{};
};

}  // namespace planaria
