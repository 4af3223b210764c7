// Virtual time: what happens next, and when.
//
// Events of one instant run in the order in which they were planned, so that a run depends on its seed alone.
//
// Thread contract: belongs to one simulation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "common/clock.hpp"

namespace planaria::sim {

class EventQueue {
 public:
  using Handler = std::function<void()>;

  void at(Instant when, Handler handler) {
    heap_.push_back({std::max(when, now_), sequence_++, std::move(handler)});
    std::push_heap(heap_.begin(), heap_.end(), later);
  }
  void after(Duration delay, Handler handler) { at(now_ + delay, std::move(handler)); }

  // Runs the next event; false when none is left.
  bool run_next() {
    if (heap_.empty()) return false;
    std::pop_heap(heap_.begin(), heap_.end(), later);
    Entry entry = std::move(heap_.back());
    heap_.pop_back();
    now_ = entry.at;
    ++executed_;
    entry.handler();
    return true;
  }

  [[nodiscard]] Instant now() const { return now_; }
  [[nodiscard]] std::uint64_t executed() const { return executed_; }

 private:
  struct Entry {
    Instant at;
    std::uint64_t sequence;
    Handler handler;
  };
  static bool later(const Entry& a, const Entry& b) { return a.at != b.at ? a.at > b.at : a.sequence > b.sequence; }

  std::vector<Entry> heap_;
  Instant now_{};
  std::uint64_t sequence_ = 0;
  std::uint64_t executed_ = 0;
};

}  // namespace planaria::sim
