// A few threads for the pieces of one op at a time. Small and quick: a call costs about a microsecond while the threads
// are awake; after a short spin without work they sleep, so that several processes can share few cores.
//
// Which thread runs which piece is left to chance. Results don't depend on it, because a piece's output depends on the
// piece alone; the floating-point mode of every thread is the same.
//
// Thread contract: run() is called by one owner thread at a time, which takes part in the work. Not reentrant.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

namespace planaria {

class ThreadPool {
 public:
  // threads includes the owner; precondition: at least 1.
  explicit ThreadPool(std::size_t threads);
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool();

  [[nodiscard]] std::size_t threads() const { return workers_.size() + 1; }

  // Calls body(piece, thread) for every piece in [0, pieces), thread in [0, threads()), and returns when all are done.
  // What body writes is visible to the caller afterwards.
  template <class Body>
  void run(std::size_t pieces, const Body& body) {
    pin_rounding();
    if (workers_.empty() || pieces <= 1) {
      for (std::size_t piece = 0; piece < pieces; ++piece) body(piece, std::size_t{0});
      return;
    }
    run_shared(pieces, &body, [](const void* context, std::size_t piece, std::size_t thread) {
      (*static_cast<const Body*>(context))(piece, thread);
    });
  }

 private:
  // Round to nearest, keep denormals, mask exceptions: a library may have changed this for the calling thread.
  static void pin_rounding();

  using Call = void (*)(const void* context, std::size_t piece, std::size_t thread);

  void run_shared(std::size_t pieces, const void* context, Call call);
  void take_pieces(std::size_t thread);
  bool enter();
  void serve(std::size_t thread);

  const std::uint32_t spins_;
  std::vector<std::thread> workers_;

  // Written by the owner while the gate is shut and nobody is inside, read by workers who are inside.
  Call call_ = nullptr;
  const void* context_ = nullptr;
  std::size_t pieces_ = 0;

  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<std::uint32_t> round_{0};
  alignas(64) std::atomic<std::size_t> next_{0};
  // Bit 31: open; below: workers inside. The owner awaits those inside only, so a worker that is asleep or has lost its
  // core holds nobody up.
  alignas(64) std::atomic<std::uint32_t> gate_{0};
};

}  // namespace planaria
