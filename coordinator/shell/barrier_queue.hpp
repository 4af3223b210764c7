// Items that leave in order, none before the log records ahead of it are durable.
//
// Thread contract: one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <utility>

namespace planaria {

template <class Item>
class BarrierQueue {
 public:
  // What is pushed from now on waits for this record. Sequence numbers only grow.
  void wait_for(std::uint64_t sequence) { barrier_ = sequence; }
  void push(Item item) { queue_.push_back({barrier_, std::move(item)}); }

  // Every record up to this one is durable.
  void durable(std::uint64_t sequence) { durable_ = sequence > durable_ ? sequence : durable_; }

  // Hands every item that may leave to `take`, in order.
  template <class Take>
  void release(Take&& take) {
    while (!queue_.empty() && queue_.front().first <= durable_) {
      auto item = std::move(queue_.front().second);
      queue_.pop_front();
      take(std::move(item));
    }
  }

  [[nodiscard]] std::size_t size() const { return queue_.size(); }

 private:
  std::deque<std::pair<std::uint64_t, Item>> queue_;
  std::uint64_t barrier_ = 0;
  std::uint64_t durable_ = 0;
};

}  // namespace planaria
