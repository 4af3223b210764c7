#include "common/transport/inbox.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>

namespace planaria {

namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
// Smaller blocks come cheaply from the heap.
constexpr std::size_t kPooledFrom = std::size_t{64} << 10;

std::align_val_t alignment_of(std::size_t bytes) {
  return std::align_val_t{bytes < 2 * kHugePage ? kAlignment : kHugePage};
}

// Large ones are fresh from the system, whose small pages take longer to be touched first than to be filled.
std::byte* take_memory(std::size_t bytes) {
  auto* const memory = static_cast<std::byte*>(::operator new(bytes, alignment_of(bytes)));
  if (alignment_of(bytes) == std::align_val_t{kHugePage}) {
    ::madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // which it may refuse
  }
  return memory;
}
void give_memory(void* memory, std::size_t bytes) {
  ::operator delete(memory, alignment_of(bytes));
}

}  // namespace

MutableSlice allocate_payload(std::size_t bytes) {
  if (bytes == 0) return {};
  std::byte* data = take_memory(bytes);
  return {std::span(data, bytes), std::shared_ptr<void>(data, [bytes](void* memory) { give_memory(memory, bytes); })};
}

PayloadPool::Shelf::~Shelf() {
  for (const auto& [capacity, block] : blocks) give_memory(block, capacity);
}

MutableSlice PayloadPool::allocate(std::size_t bytes) {
  if (bytes < kPooledFrom) return allocate_payload(bytes);
  std::byte* data = nullptr;
  std::size_t capacity = bytes;
  {
    const std::lock_guard lock(shelf_->mutex);
    const auto found = shelf_->blocks.lower_bound(bytes);
    if (found != shelf_->blocks.end() && found->first / 2 <= bytes) {
      capacity = found->first;
      data = found->second;
      shelf_->kept -= capacity;
      shelf_->blocks.erase(found);
    }
  }
  if (data == nullptr) data = take_memory(capacity);
  auto give_back = [shelf = shelf_, capacity](std::byte* block) {
    const std::lock_guard lock(shelf->mutex);
    if (shelf->kept + capacity > shelf->limit) return give_memory(block, capacity);
    shelf->kept += capacity;
    shelf->blocks.emplace(capacity, block);
  };
  return {std::span(data, bytes), std::shared_ptr<void>(std::shared_ptr<std::byte>(data, std::move(give_back)))};
}

Hash128 hash_slices(std::span<const ConstSlice> slices) {
  if (slices.size() == 1) return hash_bytes(slices.front().bytes);
  Hasher hasher;
  for (const ConstSlice& slice : slices) hasher.update(slice.bytes);
  return hasher.digest();
}

PeerStats StatsBook::of(WorkerId peer) const {
  const std::lock_guard lock(mutex_);
  const auto found = peers_.find(peer);
  return found == peers_.end() ? PeerStats{} : found->second;
}

bool Inbox::allow(PeerId peer) {
  Source& source = sources_[peer.worker];
  if (peer.incarnation < source.incarnation) return false;
  source.incarnation = peer.incarnation;
  source.blocked = false;
  return true;
}

void Inbox::block(WorkerId peer) {
  sources_[peer].blocked = true;
}

std::shared_ptr<Inbox::Arrival> Inbox::refuse_overflow(const FrameHeader& header, const char* why) {
  stats_.update(header.from.worker, [](PeerStats& s) { ++s.refused_overflow; });
  if (handlers_.event) handlers_.event({TransportEvent::Kind::overflow, header.from, header, why});
  return nullptr;
}

std::shared_ptr<Inbox::Arrival> Inbox::admit(const FrameHeader& header) {
  const WorkerId from = header.from.worker;
  Source& source = sources_[from];
  // A disconnected peer's next incarnation is another peer: its frames of a view that is yet to come are held.
  const bool shut_out = source.blocked && header.from.incarnation <= source.incarnation;
  if (closed_ || shut_out || header.from.incarnation < source.incarnation || is_fenced(header.view)) {
    stats_.update(from, [](PeerStats& s) { ++s.refused_stale; });
    return nullptr;
  }
  source.incarnation = header.from.incarnation;
  source.blocked = false;
  if (header.payload_bytes > bounds_.frame_bytes) return refuse_overflow(header, "the frame is over the size bound");

  auto arrival = std::make_shared<Arrival>();
  arrival->header = header;
  const bool future = view_ < header.view;
  const Key key{header.view, from, header.tag};
  const auto found = channels_.find(key);
  if (found != channels_.end() && !found->second.posted.empty() &&
      std::ranges::all_of(found->second.arrivals, [](const auto& earlier) { return earlier->receive.has_value(); })) {
    auto receive = std::move(found->second.posted.front());
    found->second.posted.pop_front();
    if (receive.first.buffer.bytes.size() < header.payload_bytes) {
      if (found->second.posted.empty() && found->second.arrivals.empty()) channels_.erase(found);
      receive.second(Error(ErrorCode::mismatch, "the frame is larger than the posted buffer"));
      return nullptr;
    }
    arrival->target = {receive.first.buffer.bytes.first(header.payload_bytes), receive.first.buffer.owner};
    arrival->receive = std::move(receive);
  } else {
    if (source.waiting_frames >= bounds_.frames || source.waiting_bytes + header.payload_bytes > bounds_.bytes) {
      return refuse_overflow(header, "too much is waiting from this peer");
    }
    arrival->target = pool_.allocate(header.payload_bytes);
    arrival->waiting = true;
    ++source.waiting_frames;
    source.waiting_bytes += header.payload_bytes;
  }
  stats_.update(from, [&](PeerStats& s) {
    s.held += future ? 1 : 0;
    s.waiting_frames = source.waiting_frames;
    s.waiting_bytes = source.waiting_bytes;
  });
  channels_[key].arrivals.push_back(arrival);
  return arrival;
}

void Inbox::finish(const std::shared_ptr<Arrival>& arrival, Verdict verdict) {
  const FrameHeader& header = arrival->header;
  if (arrival->ended) {
    if (std::exchange(arrival->quarantined, false)) {
      stats_.update(header.from.worker, [&](PeerStats& s) { s.quarantined_bytes -= arrival->target.bytes.size(); });
    }
    return;
  }
  const Key key{header.view, header.from.worker, header.tag};
  if (verdict == Verdict::whole) {
    arrival->whole = true;
  } else if (verdict == Verdict::broken) {
    end(arrival, ErrorCode::unavailable, "the sender broke off inside the frame");
    arrival->quarantined = false;
    stats_.update(header.from.worker, [&](PeerStats& s) { s.quarantined_bytes -= arrival->target.bytes.size(); });
    remove(arrival);
  } else {
    // Nothing writes to the posted buffer any more, so that the same receive can take the frame when it comes again.
    if (arrival->receive) channels_[key].posted.push_front(std::move(*arrival->receive));
    arrival->receive.reset();
    arrival->ended = true;
    stop_waiting(*arrival);
    remove(arrival);
    stats_.update(header.from.worker,
                  [&](PeerStats& s) { ++(verdict == Verdict::corrupt ? s.corrupt : s.unauthenticated); });
    if (verdict == Verdict::corrupt && handlers_.event) {
      handlers_.event({TransportEvent::Kind::corrupt, header.from, header, "the payload doesn't match its hash"});
    }
  }
  deliver_ready(key);
}

void Inbox::abandon(const std::shared_ptr<Arrival>& arrival) {
  if (arrival->ended || arrival->whole) return;
  end(arrival, ErrorCode::unavailable, "the sender broke off inside the frame");
  remove(arrival);
  deliver_ready({arrival->header.view, arrival->header.from.worker, arrival->header.tag});
}

void Inbox::end(const std::shared_ptr<Arrival>& arrival, ErrorCode code, const std::string& why) {
  arrival->ended = true;
  stop_waiting(*arrival);
  if (!arrival->whole) {
    arrival->quarantined = true;
    stats_.update(arrival->header.from.worker,
                  [&](PeerStats& s) { s.quarantined_bytes += arrival->target.bytes.size(); });
  }
  if (arrival->receive) {
    auto receive = std::move(*arrival->receive);
    arrival->receive.reset();
    if (code == ErrorCode::cancelled) stats_.update(receive.first.from, [](PeerStats& s) { ++s.cancelled; });
    receive.second(Error(code, why));
  }
}

void Inbox::stop_waiting(Arrival& arrival) {
  if (!std::exchange(arrival.waiting, false)) return;
  Source& source = sources_[arrival.header.from.worker];
  --source.waiting_frames;
  source.waiting_bytes -= arrival.header.payload_bytes;
  stats_.update(arrival.header.from.worker, [&](PeerStats& s) {
    s.waiting_frames = source.waiting_frames;
    s.waiting_bytes = source.waiting_bytes;
  });
}

void Inbox::remove(const std::shared_ptr<Arrival>& arrival) {
  const auto found = channels_.find({arrival->header.view, arrival->header.from.worker, arrival->header.tag});
  if (found != channels_.end()) std::erase(found->second.arrivals, arrival);
}

void Inbox::complete(std::pair<PostedReceive, ReceiveDone> receive, const FrameHeader& header) {
  stats_.update(header.from.worker, [&](PeerStats& s) {
    ++s.frames_in;
    s.bytes_in += header.payload_bytes;
  });
  receive.second(header);
}

void Inbox::hand_over(const std::shared_ptr<Arrival>& arrival, Channel& channel) {
  arrival->ended = true;
  stop_waiting(*arrival);
  const FrameHeader& header = arrival->header;
  if (arrival->receive) {
    complete(std::move(*arrival->receive), header);
    arrival->receive.reset();
  } else if (!channel.posted.empty()) {
    auto receive = std::move(channel.posted.front());
    channel.posted.pop_front();
    if (receive.first.buffer.bytes.size() < header.payload_bytes) {
      receive.second(Error(ErrorCode::mismatch, "the frame is larger than the posted buffer"));
      return;
    }
    if (header.payload_bytes != 0) {
      std::memcpy(receive.first.buffer.bytes.data(), arrival->target.bytes.data(), header.payload_bytes);
    }
    complete(std::move(receive), header);
  } else {
    stats_.update(header.from.worker, [&](PeerStats& s) {
      ++s.frames_in;
      s.bytes_in += header.payload_bytes;
    });
    if (handlers_.frame) handlers_.frame({header, std::move(arrival->target)});
  }
}

void Inbox::deliver_ready(const Key& key) {
  const auto found = channels_.find(key);
  if (found == channels_.end()) return;
  Channel& channel = found->second;
  while (std::get<ViewNumber>(key) <= view_ && !channel.arrivals.empty() && channel.arrivals.front()->whole) {
    const std::shared_ptr<Arrival> arrival = channel.arrivals.front();
    if (!arrival->receive && channel.posted.empty() && arrival->header.delivery == Delivery::matched) break;
    channel.arrivals.pop_front();
    hand_over(arrival, channel);
  }
  if (channel.arrivals.empty() && channel.posted.empty()) channels_.erase(found);
}

void Inbox::post(PostedReceive receive, ReceiveDone done) {
  if (closed_ || is_fenced(receive.view)) {
    stats_.update(receive.from, [](PeerStats& s) { ++s.cancelled; });
    done(Error(ErrorCode::cancelled, "the receive's view is over"));
    return;
  }
  const Key key{receive.view, receive.from, receive.tag};
  channels_[key].posted.emplace_back(std::move(receive), std::move(done));
  deliver_ready(key);
}

void Inbox::set_view(ViewNumber view) {
  if (view <= view_ || is_fenced(view)) return;
  fence(view.previous());
  view_ = view;
  // Delivering erases channels, so their keys are collected first.
  std::vector<Key> keys;
  for (const auto& [key, channel] : channels_) {
    if (std::get<ViewNumber>(key) == view) keys.push_back(key);
  }
  for (const Key& key : keys) deliver_ready(key);
}

void Inbox::end_channel(Channel& channel) {
  for (const auto& arrival : channel.arrivals) end(arrival, ErrorCode::cancelled, "the receive's view is over");
  for (auto& [receive, done] : channel.posted) {
    stats_.update(receive.from, [](PeerStats& s) { ++s.cancelled; });
    done(Error(ErrorCode::cancelled, "the receive's view is over"));
  }
}

void Inbox::fence(ViewNumber view) {
  if (is_fenced(view)) return;
  fenced_ = view;
  while (!channels_.empty() && std::get<ViewNumber>(channels_.begin()->first) <= view) {
    auto node = channels_.extract(channels_.begin());
    end_channel(node.mapped());
  }
}

void Inbox::close() {
  closed_ = true;
  while (!channels_.empty()) {
    auto node = channels_.extract(channels_.begin());
    end_channel(node.mapped());
  }
}

}  // namespace planaria
