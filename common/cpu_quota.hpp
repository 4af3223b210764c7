// How much processor time the system lets this process have: control groups' bandwidth limits, of version 2 (cpu.max)
// and 1 (cpu.cfs_quota_us, cpu.cfs_period_us). See cgroups(7) and the kernel's scheduler/sched-bwc.
//
// Thread contract: pure functions of the system.
#pragma once

#include <string>

namespace planaria {

struct ControlGroupFiles {
  std::string of_process = "/proc/self/cgroup";
  std::string root = "/sys/fs/cgroup";
};

// Processors' worth of time: the tightest limit of the process's groups and of those around them; infinity without one,
// and where the system doesn't tell.
[[nodiscard]] double cpu_quota(const ControlGroupFiles& files = {});

}  // namespace planaria
