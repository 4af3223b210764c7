// Memory of a keeper, in pieces that other processes of the host can be handed, within a bound.
//
// Contents: undefined; what was given back is used again. Reserved memory counts until the system has it back, also
// while nobody uses it: more than the bound is never held.
//
// Thread contract: any thread; what take() gave may be let go by any.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "common/result.hpp"
#include "common/shared_memory.hpp"

namespace planaria {

class SnapshotMemory : public std::enable_shared_from_this<SnapshotMemory> {
 public:
  [[nodiscard]] static std::shared_ptr<SnapshotMemory> within(std::uint64_t bound_bytes) {
    return std::shared_ptr<SnapshotMemory>(new SnapshotMemory(bound_bytes));
  }

  // Comes back when the last owner lets go. exhausted: beyond the bound, or the system has no more; says how much is
  // needed. Precondition: bytes > 0.
  [[nodiscard]] Result<std::shared_ptr<SharedMemory>> take(std::uint64_t bytes);

  [[nodiscard]] std::uint64_t bound_bytes() const { return bound_; }
  [[nodiscard]] std::uint64_t used_bytes() const;  // by owners

 private:
  explicit SnapshotMemory(std::uint64_t bound) : bound_(bound) {}
  void give_back(std::unique_ptr<SharedMemory> memory);

  const std::uint64_t bound_;
  mutable std::mutex mutex_;
  std::uint64_t used_ = 0;
  std::uint64_t idle_bytes_ = 0;
  std::multimap<std::uint64_t, std::unique_ptr<SharedMemory>> idle_;  // by size
};

}  // namespace planaria
