// The planner beside the coordinator's loop: leases don't wait for it.
//
// Thread contract: ask() from any thread; `done` is called on the planner's own. Destruction waits for a plan that is
// under way.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "coordinator/core/coordinator_core.hpp"

namespace planaria {

class PlanningThread {
 public:
  explicit PlanningThread(std::function<void(coordinator_event::LayoutPlanned)> done);
  ~PlanningThread();
  PlanningThread(const PlanningThread&) = delete;
  PlanningThread& operator=(const PlanningThread&) = delete;

  // A request that wasn't begun yet is replaced.
  void ask(LayoutRequest request);

 private:
  void run();

  const std::function<void(coordinator_event::LayoutPlanned)> done_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<LayoutRequest> next_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace planaria
