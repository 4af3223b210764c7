// Carries out a keeper's actions: one thread in front of the SnapshotStore.
//
// Thread contract: create and the destructor belong to the owner; the rest as ActionExecutor says.
#pragma once

#include <memory>
#include <optional>

#include "common/hash.hpp"
#include "proto/job_spec.hpp"
#include "storage/fragment_damage.hpp"
#include "storage/snapshot_memory.hpp"
#include "worker/keeper/memory_lender.hpp"
#include "worker/keeper/snapshot_saver.hpp"
#include "worker/trainer/action_executor.hpp"

namespace planaria {

// What a worker sealed, as the payload of its event.
struct SealedPayload final : Payload {
  SealedCopy copy;
};

struct KeeperCounters {
  std::uint64_t memory_bytes = 0;  // that snapshots take now
  std::uint64_t bound_bytes = 0;
  std::uint64_t sent_bytes = 0;  // of fragments
  std::uint64_t damaged_tiles = 0;
  std::uint64_t damaged_parities = 0;
};

class KeeperExecutor final : public ActionExecutor {
 public:
  // `durable`: where to save snapshots; none: they aren't saved.
  KeeperExecutor(const JobSpec& job, std::shared_ptr<SnapshotMemory> memory, ExecutorHooks hooks,
                 std::optional<SaverOptions> durable = std::nullopt);
  ~KeeperExecutor() override;
  KeeperExecutor(const KeeperExecutor&) = delete;
  KeeperExecutor& operator=(const KeeperExecutor&) = delete;

  void post(WorkerAction action, ViewNumber view) override;
  [[nodiscard]] std::optional<std::vector<ConstSlice>> state_payload(const StateTiles& meta) override;
  [[nodiscard]] ExecutorCounters counters() const override;
  [[nodiscard]] const StateMap& map() const override;
  [[nodiscard]] std::size_t boundary_elements() const override { return 0; }
  // As SnapshotStore::find, in runs that a message of the copy link can tell of.
  [[nodiscard]] Result<std::vector<StoredTiles>> find(Step stamp, TileRange tiles) const;
  [[nodiscard]] KeeperCounters keeper_counters() const;
  // Chaos: as SnapshotStore::damage, at once or when there is something to spoil.
  [[nodiscard]] Status damage(FragmentDamage how);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria
