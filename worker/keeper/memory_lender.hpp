// A keeper's end of the copy link: lends its memory to the workers of its host and takes what they have sealed.
//
// Thread contract: start and the destructor belong to the owner. `sealed` is called from threads of the lender, for one
// worker at a time.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/hash.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"
#include "common/shared_memory.hpp"
#include "proto/state_map.hpp"
#include "storage/snapshot_memory.hpp"

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

class MemoryLender {
 public:
  // Listens at the path. Errors of LocalListener::listen.
  [[nodiscard]] static Result<std::unique_ptr<MemoryLender>> start(const std::string& path,
                                                                   std::shared_ptr<SnapshotMemory> memory,
                                                                   std::function<void(SealedCopy)> sealed);
  ~MemoryLender();
  MemoryLender(const MemoryLender&) = delete;
  MemoryLender& operator=(const MemoryLender&) = delete;

 private:
  class Impl;
  explicit MemoryLender(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria
