// Carries out what the fault hook is told: on the transport, the trainer, the file system and the control connection.
//
// Rules outlive a transport: a new incarnation's gets those that hold.
//
// Thread contract: any thread may call.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "common/clock.hpp"
#include "common/file_faults.hpp"
#include "common/transport/faulty.hpp"
#include "worker/keeper/keeper_executor.hpp"
#include "worker/shell/fault_hook.hpp"
#include "worker/trainer/trainer.hpp"

namespace planaria {

class FaultSwitches {
 public:
  FaultSwitches(const Clock& clock, FaultyFileSystem& files) : clock_(clock), files_(files) {}

  // Where faults act from now on; before that, commands that need one are refused.
  void set_trainer(Trainer* trainer);
  void set_keeper(KeeperExecutor* keeper);
  // A transport that misbehaves to order around `inner`.
  [[nodiscard]] std::shared_ptr<Transport> wrap(std::shared_ptr<Transport> inner, std::uint64_t seed);

  [[nodiscard]] Status apply(const FaultCommand& command);

  // Nothing passes to or from the coordinator.
  [[nodiscard]] bool coordinator_blocked() const { return coordinator_blocked_.load(std::memory_order_relaxed); }
  // Around the sending of a frame with values: it may be the one that corrupt_next is for.
  void before_send();
  void after_send();
  // Ends faults whose time is over. Called now and then.
  void tick();

 private:
  void set_rules(std::optional<WorkerId> peer, Direction direction, const FaultRule& rule);
  void apply_rules();
  [[nodiscard]] FaultRule default_rule(Direction direction) const;

  const Clock& clock_;
  FaultyFileSystem& files_;
  std::atomic<bool> coordinator_blocked_{false};
  std::atomic<bool> corrupt_next_{false};

  std::mutex mutex_;
  Trainer* trainer_ = nullptr;
  KeeperExecutor* keeper_ = nullptr;
  std::shared_ptr<FaultyTransport> transport_;
  // No peer: the rule of all that have none of their own.
  std::map<std::pair<std::optional<WorkerId>, Direction>, FaultRule> rules_;
  std::optional<Instant> disk_heals_at_;
};

}  // namespace planaria
