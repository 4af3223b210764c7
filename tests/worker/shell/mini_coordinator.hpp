// A coordinator core behind the real gateway, in memory: what agents need to train in one process.
//
// Thread contract: a thread of its own drives the core; the rest may be called from any thread.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "coordinator/core/coordinator_core.hpp"
#include "coordinator/shell/gateway.hpp"

namespace planaria {

class MiniCoordinator {
 public:
  MiniCoordinator(const JobSpec& job, const std::string& job_toml, std::uint16_t port = 0) {
    CoordinatorCoreConfig config;
    config.job = job;
    config.job_hash = job_hash(job);
    config.job_toml = job_toml;
    config.job_key = 77;
    core_ = std::make_unique<CoordinatorCore>(std::move(config));
    auto gateway = ControlGateway::start({.address = "127.0.0.1", .port = port}, [this](GatewayEvent event) {
      {
        const std::scoped_lock lock(mutex_);
        queue_.push_back(std::move(event));
      }
      wake_.notify_one();
      return true;
    });
    EXPECT_TRUE(gateway.ok()) << (gateway.ok() ? "" : gateway.error().describe());
    gateway_ = std::move(gateway).value();
    thread_ = std::thread([this] { run(); });
  }
  ~MiniCoordinator() {
    {
      const std::scoped_lock lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_one();
    thread_.join();
    gateway_.reset();
  }

  [[nodiscard]] std::uint16_t port() const { return gateway_->port(); }
  // The result, once every worker is done.
  std::optional<JobResult> result() {
    std::unique_lock lock(mutex_);
    wake_.wait_for(lock, std::chrono::seconds(60), [&] { return result_.has_value(); });
    return result_;
  }
  std::string story() {
    const std::scoped_lock lock(mutex_);
    return story_;
  }

 private:
  void run() {
    carry_out(core_->on(coordinator_event::Started{}, clock_.now()));
    while (true) {
      std::optional<GatewayEvent> event;
      {
        std::unique_lock lock(mutex_);
        wake_.wait_for(lock, std::max(Duration(0), core_->next_tick() - clock_.now()),
                       [&] { return stopping_ || !queue_.empty(); });
        if (stopping_) return;
        if (!queue_.empty()) {
          event = std::move(queue_.front());
          queue_.pop_front();
        }
      }
      const Instant now = clock_.now();
      if (event && event->envelope) {
        carry_out(core_->on(coordinator_event::SessionMessage{event->session, std::move(*event->envelope)}, now));
      } else if (event) {
        carry_out(core_->on(coordinator_event::SessionLost{event->session}, now));
      }
      if (now >= core_->next_tick()) carry_out(core_->on(coordinator_event::Tick{}, now));
      const std::scoped_lock lock(mutex_);
      result_ = core_->result();
      if (result_) wake_.notify_all();
    }
  }
  void carry_out(const CoordinatorActions& actions) {
    for (const CoordinatorAction& action : actions) {
      if (const auto* send = std::get_if<coordinator_action::Send>(&action))
        gateway_->send(send->session, send->envelope);
      if (const auto* said = std::get_if<coordinator_action::Announce>(&action)) {
        const std::scoped_lock lock(mutex_);
        story_ += said->text + "\n";
      }
    }
  }

  SteadyClock clock_;
  std::unique_ptr<CoordinatorCore> core_;
  std::unique_ptr<ControlGateway> gateway_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<GatewayEvent> queue_;
  std::optional<JobResult> result_;
  std::string story_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace planaria
