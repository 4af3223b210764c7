// A keeper's end of the copy link: lends its memory to the workers of its host, takes what they have sealed, and lets
// them read what it holds.
//
// Thread contract: start and the destructor belong to the owner. Hooks are called from threads of the lender, one for
// each worker.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/hash.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"
#include "common/shared_memory.hpp"
#include "proto/state_map.hpp"
#include "storage/snapshot_memory.hpp"
#include "storage/snapshot_store.hpp"

namespace planaria {

struct SealedCopy {
  WorkerId from;
  Incarnation incarnation;
  ViewNumber view;
  Step stamp;
  std::vector<TileRange> tiles;                // one behind the other from `offset` on
  std::vector<Hash128> hashes;                 // of each tile
  std::shared_ptr<const SharedMemory> memory;  // written no more
  std::uint64_t offset = 0;
};

struct LenderHooks {
  std::function<std::optional<WorkerId>()> self;  // as the coordinator has named it
  std::function<void(SealedCopy)> sealed;
  // Where tiles of a step lie in the keeper's memory, unchecked. May wait.
  std::function<Result<std::vector<StoredTiles>>(Step, TileRange)> find;
};

class MemoryLender {
 public:
  // Listens at the path. Errors of LocalListener::listen.
  [[nodiscard]] static Result<std::unique_ptr<MemoryLender>> start(const std::string& path,
                                                                   std::shared_ptr<SnapshotMemory> memory,
                                                                   LenderHooks hooks);
  ~MemoryLender();
  MemoryLender(const MemoryLender&) = delete;
  MemoryLender& operator=(const MemoryLender&) = delete;

 private:
  class Impl;
  explicit MemoryLender(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria
