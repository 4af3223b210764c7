#include "common/transport/faulty.hpp"

#include <algorithm>
#include <cstring>

#include "common/transport/inbox.hpp"

namespace planaria {
namespace {

Error view_over() {
  return {ErrorCode::cancelled, "the frame's view is over"};
}

// One contiguous copy of the payload with one bit turned over.
ConstSlice damaged(std::span<const ConstSlice> payload, std::uint64_t bytes, std::uint64_t bit) {
  const MutableSlice copy = allocate_payload(bytes);
  std::size_t at = 0;
  for (const ConstSlice& slice : payload) {
    if (!slice.bytes.empty()) std::memcpy(copy.bytes.data() + at, slice.bytes.data(), slice.bytes.size());
    at += slice.bytes.size();
  }
  copy.bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  return {copy.bytes, copy.owner};
}

std::uint64_t total(std::span<const ConstSlice> payload) {
  std::uint64_t bytes = 0;
  for (const ConstSlice& slice : payload) bytes += slice.bytes.size();
  return bytes;
}

}  // namespace

FaultyTransport::FaultyTransport(std::shared_ptr<Transport> inner, std::uint64_t seed, const Clock& clock,
                                 bool own_timer)
    : inner_(std::move(inner)), clock_(clock), random_(philox_key(seed, RandomPurpose::chaos)) {
  if (own_timer) timer_ = std::thread([this] { run_timer(); });
}

FaultyTransport::~FaultyTransport() {
  stop();
}

void FaultyTransport::set_rule(WorkerId peer, Direction direction, FaultRule rule) {
  const std::lock_guard lock(mutex_);
  rules_[{peer, direction}] = rule;
  changed_.notify_all();
}

void FaultyTransport::set_default_rule(Direction direction, FaultRule rule) {
  const std::lock_guard lock(mutex_);
  default_rules_[direction] = rule;
  changed_.notify_all();
}

void FaultyTransport::clear_rules() {
  const std::lock_guard lock(mutex_);
  rules_.clear();
  default_rules_.clear();
  changed_.notify_all();
}

const FaultRule& FaultyTransport::rule_of(LaneKey key) const {
  static const FaultRule kNone;
  if (const auto own = rules_.find(key); own != rules_.end()) return own->second;
  const auto common = default_rules_.find(key.second);
  return common == default_rules_.end() ? kNone : common->second;
}

FaultyTransport::Fate FaultyTransport::decide(LaneKey key, std::uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  const FaultRule& rule = rule_of(key);
  Fate fate;
  // Only a rule that can hit draws, so that a rule's effect doesn't depend on the traffic before it was set.
  if (rule.drop > 0) fate.drop = random_.chance(rule.drop);
  if (rule.duplicate > 0) fate.duplicate = random_.chance(rule.duplicate);
  if (rule.corrupt > 0 && bytes != 0 && random_.chance(rule.corrupt)) fate.corrupt_bit = random_.below(bytes * 8);
  return fate;
}

void FaultyTransport::enqueue(LaneKey key, std::uint64_t bytes, Waiting waiting) {
  {
    std::unique_lock lock(mutex_);
    if (stopping_) {
      lock.unlock();
      return waiting.cancel();
    }
    const FaultRule& rule = rule_of(key);
    Lane& lane = lanes_[key];
    const Instant now = clock_.now();
    Instant due = std::max(now, lane.free_at);
    if (rule.bytes_per_second > 0) {
      due = due + Duration(static_cast<std::int64_t>(static_cast<double>(bytes) / rule.bytes_per_second * 1e9));
      lane.free_at = due;
    }
    due = due + rule.delay;
    if (rule.jitter.count() > 0) due = due + Duration(random_.below(static_cast<std::uint64_t>(rule.jitter.count())));
    if (!rule.overtake) due = std::max(lane.last_due, due);
    lane.last_due = std::max(lane.last_due, due);
    if (waiting.later || rule.block || now < due || lane.releasing || !lane.waiting.empty()) {
      waiting.due = due;
      const auto place = std::ranges::upper_bound(lane.waiting, due, {}, &Waiting::due);
      lane.waiting.insert(place, std::move(waiting));
      changed_.notify_all();
      return;
    }
  }
  waiting.release();
}

Instant FaultyTransport::poll() {
  for (;;) {
    Waiting next;
    LaneKey key;
    {
      const std::lock_guard lock(mutex_);
      Instant earliest = kFarFuture;
      for (const auto& [candidate, lane] : lanes_) {
        if (lane.waiting.empty() || lane.releasing || rule_of(candidate).block) continue;
        if (lane.waiting.front().due < earliest) {
          earliest = lane.waiting.front().due;
          key = candidate;
        }
      }
      if (stopping_ || earliest > clock_.now()) return stopping_ ? kFarFuture : earliest;
      Lane& lane = lanes_[key];
      next = std::move(lane.waiting.front());
      lane.waiting.pop_front();
      lane.releasing = true;
    }
    next.release();
    const std::lock_guard lock(mutex_);
    lanes_[key].releasing = false;
  }
}

void FaultyTransport::run_timer() {
  for (;;) {
    const Instant next = poll();
    std::unique_lock lock(mutex_);
    if (stopping_) return;
    const bool ready = std::ranges::any_of(lanes_, [&](const auto& entry) {
      return !entry.second.waiting.empty() && !rule_of(entry.first).block && entry.second.waiting.front().due < next;
    });
    if (ready) continue;
    if (next == kFarFuture) {
      changed_.wait(lock);
    } else {
      changed_.wait_for(lock, std::max(next - clock_.now(), Duration(0)));
    }
  }
}

template <class Callback, class... Arguments>
void FaultyTransport::call(const Callback& callback, Arguments&&... arguments) {
  if (!callback) return;
  const std::lock_guard lock(callback_mutex_);
  callback(std::forward<Arguments>(arguments)...);
}

Status FaultyTransport::start(TransportHandlers handlers) {
  handlers_ = std::move(handlers);
  return inner_->start({[this](InboundFrame frame) { take_inbound(std::move(frame)); },
                        [this](TransportEvent event) { call(handlers_.event, std::move(event)); }});
}

void FaultyTransport::send(WorkerId to, OutgoingFrame frame, SendDone done) {
  const LaneKey key{to, Direction::outbound};
  const std::uint64_t bytes = total(frame.payload);
  const Fate fate = decide(key, bytes);
  const ViewNumber view = frame.view;
  SendDone reported = [this, done](Status status) { call(done, std::move(status)); };
  Waiting waiting;
  waiting.view = view;
  waiting.cancel = [reported] { reported(view_over()); };
  if (fate.drop) {
    waiting.later = true;  // a callback never comes from inside the call
    waiting.release = [reported] { reported(ok_status()); };
    return enqueue(key, bytes, std::move(waiting));
  }
  if (fate.corrupt_bit) {
    if (!frame.payload_hash) frame.payload_hash = hash_slices(frame.payload);
    frame.payload = {damaged(frame.payload, bytes, *fate.corrupt_bit)};
  }
  if (fate.duplicate) {
    enqueue(key, bytes,
            {.view = view,
             .release = [this, to, frame] { inner_->send(to, frame, [](const Status&) {}); },
             .cancel = [] {}});
  }
  waiting.release = [this, to, frame = std::move(frame), reported] { inner_->send(to, frame, reported); };
  enqueue(key, bytes, std::move(waiting));
}

void FaultyTransport::report_corrupt(const FrameHeader& header) {
  call(handlers_.event,
       TransportEvent{TransportEvent::Kind::corrupt, header.from, header, "the payload doesn't match its hash"});
}

void FaultyTransport::take_inbound(InboundFrame frame) {
  const FrameHeader header = frame.header;
  const LaneKey key{header.from.worker, Direction::inbound};
  const Fate fate = decide(key, header.payload_bytes);
  if (fate.drop) return;
  const auto hand_over = [&](std::function<void()> release) {
    enqueue(key, header.payload_bytes, {.view = header.view, .release = std::move(release), .cancel = [] {}});
  };
  if (fate.corrupt_bit) return hand_over([this, header] { report_corrupt(header); });
  if (fate.duplicate) {
    const MutableSlice copy = allocate_payload(frame.payload.bytes.size());
    std::ranges::copy(frame.payload.bytes, copy.bytes.begin());
    hand_over([this, header, copy] { call(handlers_.frame, InboundFrame{header, copy}); });
  }
  hand_over([this, frame = std::move(frame)] { call(handlers_.frame, frame); });
}

void FaultyTransport::post_receive(PostedReceive receive, ReceiveDone done) {
  inner_->post_receive(receive, [this, receive, done = std::move(done)](Result<FrameHeader> result) {
    take_received(receive, done, std::move(result));
  });
}

void FaultyTransport::take_received(PostedReceive receive, ReceiveDone done, Result<FrameHeader> result) {
  if (!result) return call(done, std::move(result));
  const FrameHeader header = *result;
  const LaneKey key{header.from.worker, Direction::inbound};
  const Fate fate = decide(key, header.payload_bytes);
  if (fate.drop) return post_receive(std::move(receive), std::move(done));
  Waiting waiting;
  waiting.view = header.view;
  waiting.cancel = [this, done] { call(done, Result<FrameHeader>(view_over())); };
  if (fate.corrupt_bit) {
    waiting.release = [this, receive = std::move(receive), done = std::move(done), header] {
      report_corrupt(header);
      post_receive(receive, done);
    };
  } else {
    waiting.release = [this, done = std::move(done), header] { call(done, Result<FrameHeader>(header)); };
  }
  enqueue(key, header.payload_bytes, std::move(waiting));
}

void FaultyTransport::cancel_waiting(std::optional<ViewNumber> up_to) {
  std::vector<Waiting> over;
  {
    const std::lock_guard lock(mutex_);
    for (auto& [key, lane] : lanes_) {
      std::erase_if(lane.waiting, [&](Waiting& waiting) {
        if (up_to && *up_to < waiting.view) return false;
        over.push_back(std::move(waiting));
        return true;
      });
    }
  }
  for (const Waiting& waiting : over) waiting.cancel();
}

void FaultyTransport::set_view(ViewNumber view) {
  if (view != ViewNumber()) fence(view.previous(), {});
  inner_->set_view(view);
}

void FaultyTransport::fence(ViewNumber view, std::function<void()> done) {
  inner_->fence(view, [this, view, done = std::move(done)] {
    cancel_waiting(view);
    call(done);
  });
}

void FaultyTransport::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (timer_.joinable()) timer_.join();
  inner_->stop();
  cancel_waiting(std::nullopt);
}

}  // namespace planaria
