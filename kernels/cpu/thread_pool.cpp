#include "kernels/cpu/thread_pool.hpp"

#include <immintrin.h>

namespace planaria {
namespace {

constexpr std::uint32_t gate_open = 1U << 31;

// About 20 microseconds: longer than the gap between two ops of a step, far shorter than a time slice.
constexpr std::uint32_t spins_before_sleep = 1000;

// Waits until value differs from old: spins a little, then sleeps.
std::uint32_t await_change(const std::atomic<std::uint32_t>& value, std::uint32_t old, std::uint32_t spins) {
  for (std::uint32_t i = 0; i < spins; ++i) {
    const std::uint32_t now = value.load(std::memory_order_acquire);
    if (now != old) return now;
    _mm_pause();
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(std::size_t threads)
    : spins_(threads <= std::thread::hardware_concurrency() ? spins_before_sleep : 0) {
  workers_.reserve(threads - 1);
  for (std::size_t thread = 1; thread < threads; ++thread) workers_.emplace_back([this, thread] { serve(thread); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::pin_rounding() {
  constexpr unsigned control = 0xffc0;  // the other bits are sticky flags
  constexpr unsigned standard = 0x1f80;
  if ((_mm_getcsr() & control) != standard) _mm_setcsr(standard);
}

void ThreadPool::run_shared(std::size_t pieces, const void* context, Call call) {
  call_ = call;
  context_ = context;
  pieces_ = pieces;
  next_.store(0, std::memory_order_relaxed);
  gate_.store(gate_open, std::memory_order_release);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  take_pieces(0);
  std::uint32_t inside = gate_.fetch_and(~gate_open, std::memory_order_acq_rel) & ~gate_open;
  while (inside != 0) inside = await_change(gate_, inside, spins_);
}

void ThreadPool::take_pieces(std::size_t thread) {
  for (std::size_t piece = next_.fetch_add(1, std::memory_order_relaxed); piece < pieces_;
       piece = next_.fetch_add(1, std::memory_order_relaxed)) {
    call_(context_, piece, thread);
  }
}

bool ThreadPool::enter() {
  std::uint32_t gate = gate_.load(std::memory_order_relaxed);
  while ((gate & gate_open) != 0) {
    if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire, std::memory_order_relaxed)) return true;
  }
  return false;
}

void ThreadPool::serve(std::size_t thread) {
  pin_rounding();
  for (std::uint32_t seen = 0;;) {
    seen = await_change(round_, seen, spins_);
    if (stop_.load(std::memory_order_relaxed)) return;
    if (!enter()) continue;
    take_pieces(thread);
    if (gate_.fetch_sub(1, std::memory_order_acq_rel) == 1) gate_.notify_one();
  }
}

}  // namespace planaria
