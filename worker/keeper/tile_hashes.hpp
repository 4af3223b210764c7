// Hashes of tiles that lie one behind the other, made by several threads while the bytes still arrive: one thread
// hashes a GPU's state more slowly than it is copied.
//
// Thread contract: one thread makes it, tells what arrived and takes the hashes. The memory is read until then.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "common/hash.hpp"

namespace planaria {

// A part of the processors that this process may use, as training needs them too; at most what keeps up with the link
// to a GPU.
[[nodiscard]] std::size_t hashing_threads();

class TileHashes {
 public:
  // Precondition: the tiles' bytes are within the memory; threads > 0. Few bytes have fewer threads.
  TileHashes(std::span<const std::byte> memory, std::span<const std::uint64_t> tile_bytes, std::size_t threads);
  // Leaves what isn't hashed yet.
  ~TileHashes();
  TileHashes(const TileHashes&) = delete;
  TileHashes& operator=(const TileHashes&) = delete;

  // So many bytes, from the first tile on, are there and stay as they are. Never fewer than before.
  void arrived(std::size_t bytes);
  // Of each tile. Precondition: all have arrived; nothing was taken yet.
  [[nodiscard]] std::vector<Hash128> take();

 private:
  void work();
  void join();

  const std::span<const std::byte> memory_;
  std::vector<std::size_t> ends_;  // of tiles
  std::vector<Hash128> hashes_;
  std::mutex mutex_;
  std::condition_variable more_;
  std::size_t there_ = 0;
  std::size_t next_ = 0;  // tile that no thread has begun
  std::vector<std::thread> threads_;
};

}  // namespace planaria
