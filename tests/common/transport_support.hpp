// A transport with a notebook: what tests of every Transport implementation share.
//
// Thread contract: callbacks write from any thread, the test waits and reads.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "common/transport/inbox.hpp"
#include "common/transport/transport.hpp"

namespace planaria::testing {

inline ConstSlice slice_of(std::string_view text) {
  const MutableSlice copy = allocate_payload(text.size());
  if (!text.empty()) std::memcpy(copy.bytes.data(), text.data(), text.size());
  return {copy.bytes, copy.owner};
}

inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline OutgoingFrame frame_of(std::string_view text, std::uint64_t view = 1, std::uint64_t tag = 0,
                              Delivery delivery = Delivery::handler) {
  OutgoingFrame frame;
  frame.view = ViewNumber(view);
  frame.kind = 7;
  frame.delivery = delivery;
  frame.tag = tag;
  frame.payload = {slice_of(text)};
  return frame;
}

// Bytes in which every position matters.
inline MutableSlice pattern(std::size_t bytes, std::uint8_t seed = 1) {
  const MutableSlice out = allocate_payload(bytes);
  std::uint32_t state = seed;
  for (std::byte& byte : out.bytes) {
    state = state * 1664525U + 1013904223U;
    byte = static_cast<std::byte>(state >> 24);
  }
  return out;
}

class Node {
 public:
  Node(std::shared_ptr<Transport> transport, PeerId id) : id_(id), transport_(std::move(transport)) {
    const Status started = transport_->start({[this](InboundFrame frame) { note(frames_, std::move(frame)); },
                                              [this](TransportEvent event) { note(events_, std::move(event)); }});
    EXPECT_TRUE(started);
  }
  ~Node() { transport_->stop(); }

  Transport* operator->() { return transport_.get(); }
  [[nodiscard]] PeerId id() const { return id_; }
  [[nodiscard]] WorkerId worker() const { return id_.worker; }

  void connect(Node& other) {
    const Status connected = transport_->connect(other.id_, other->address());
    EXPECT_TRUE(connected) << connected.error().describe();
  }
  void send(Node& to, OutgoingFrame frame) { send(to.worker(), std::move(frame)); }
  void send(WorkerId to, OutgoingFrame frame) {
    transport_->send(to, std::move(frame), [this](const Status& status) {
      note(sent_, status ? std::string("ok") : std::string(to_string(status.error().code())));
    });
  }
  void receive(Node& from, MutableSlice buffer, std::uint64_t view = 1, std::uint64_t tag = 0) {
    transport_->post_receive(
        {from.worker(), ViewNumber(view), tag, std::move(buffer)}, [this](const Result<FrameHeader>& result) {
          note(received_, result ? std::string("ok") : std::string(to_string(result.error().code())));
        });
  }
  // Waits until fence() took effect.
  void fence(std::uint64_t view) {
    transport_->fence(ViewNumber(view), [this] { note(fences_, view_fenced_++); });
  }

  // True once `ready` holds; false after ten seconds.
  template <class Ready>
  bool wait(Ready ready) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(10), ready);
  }
  bool wait_frames(std::size_t count) {
    return wait([&] { return frames_.size() >= count; });
  }
  bool wait_text(std::string_view text) {
    return wait([&] {
      return std::any_of(frames_.begin(), frames_.end(),
                         [&](const InboundFrame& frame) { return text_of(frame.payload.bytes) == text; });
    });
  }
  bool wait_sent(std::size_t count) {
    return wait([&] { return sent_.size() >= count; });
  }
  bool wait_received(std::size_t count) {
    return wait([&] { return received_.size() >= count; });
  }
  bool wait_fences(std::size_t count) {
    return wait([&] { return fences_.size() >= count; });
  }
  bool wait_event(TransportEvent::Kind kind) {
    return wait([&] {
      return std::any_of(events_.begin(), events_.end(), [&](const auto& event) { return event.kind == kind; });
    });
  }

  std::vector<std::string> frame_texts() {
    const std::lock_guard lock(mutex_);
    std::vector<std::string> texts;
    for (const InboundFrame& frame : frames_) texts.push_back(text_of(frame.payload.bytes));
    return texts;
  }
  InboundFrame frame(std::size_t at) {
    const std::lock_guard lock(mutex_);
    return frames_.at(at);
  }
  TransportEvent event(std::size_t at) {
    const std::lock_guard lock(mutex_);
    return events_.at(at);
  }
  std::vector<std::string> sent() {
    const std::lock_guard lock(mutex_);
    return sent_;
  }
  std::vector<std::string> received() {
    const std::lock_guard lock(mutex_);
    return received_;
  }
  std::size_t event_count() {
    const std::lock_guard lock(mutex_);
    return events_.size();
  }

 private:
  template <class T>
  void note(std::vector<T>& book, T entry) {
    const std::lock_guard lock(mutex_);
    book.push_back(std::move(entry));
    changed_.notify_all();
  }

  const PeerId id_;
  std::shared_ptr<Transport> transport_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<InboundFrame> frames_;
  std::vector<TransportEvent> events_;
  std::vector<std::string> sent_;
  std::vector<std::string> received_;
  int view_fenced_ = 0;
  std::vector<int> fences_;
};

inline PeerId peer(std::uint32_t worker, std::uint32_t incarnation = 1) {
  return {WorkerId(worker), Incarnation(incarnation)};
}

}  // namespace planaria::testing
