#include "coordinator/shell/planning_thread.hpp"

#include <utility>

namespace planaria {

PlanningThread::PlanningThread(std::function<void(coordinator_event::LayoutPlanned)> done)
    : done_(std::move(done)), thread_([this] { run(); }) {}

PlanningThread::~PlanningThread() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void PlanningThread::ask(LayoutRequest request) {
  {
    const std::lock_guard lock(mutex_);
    next_ = std::move(request);
  }
  changed_.notify_all();
}

void PlanningThread::run() {
  for (;;) {
    std::optional<LayoutRequest> request;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || next_; });
      if (stopping_) return;
      request = std::exchange(next_, std::nullopt);
    }
    done_({request->number, plan_layout(request->model, request->cluster, request->options)});
  }
}

}  // namespace planaria
