// A Transport that misbehaves to order, around any other: frames are delayed, dropped, doubled, damaged, held up by a
// partition or slowed down, by rules per peer and direction that can be changed at any time. The seed decides which
// frames are hit, so a single-threaded run repeats exactly.
//
// Outbound faults act on sends: a dropped frame still reports success, as on a real network; a damaged one carries the
// hash of the undamaged bytes, so that the receiver finds it. Inbound faults act on what the inner transport hands
// over, posted receives included: a dropped or damaged frame leaves its receive posted (behind those posted later),
// and doubling doesn't apply to receives. Delays keep the order of frames within a peer and direction, unless their
// rule lets frames overtake. A partition holds frames until it is lifted or their view is fenced.
//
// Thread contract: as Transport, but callbacks come from the inner transport's thread or from an own timer thread,
// still one at a time. Without own_timer nothing happens later by itself: call poll().
#pragma once

#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "common/philox.hpp"
#include "common/transport/transport.hpp"

namespace planaria {

struct FaultRule {
  double drop = 0;  // probabilities per frame
  double duplicate = 0;
  double corrupt = 0;  // one bit of a frame that has payload
  Duration delay{0};
  Duration jitter{0};           // up to this much more, uniform
  bool overtake = false;        // a frame passes others that wait longer
  double bytes_per_second = 0;  // 0 = unlimited
  bool block = false;
};

enum class Direction : std::uint8_t { outbound, inbound };

class FaultyTransport final : public Transport {
 public:
  // `clock` must outlive the transport.
  FaultyTransport(std::shared_ptr<Transport> inner, std::uint64_t seed, const Clock& clock, bool own_timer);
  ~FaultyTransport() override;

  void set_rule(WorkerId peer, Direction direction, FaultRule rule);
  // For peers that have no rule of their own.
  void set_default_rule(Direction direction, FaultRule rule);
  void clear_rules();

  // Lets everything happen that is due; returns when the next thing is, kFarFuture for never.
  Instant poll();

  Status start(TransportHandlers handlers) override;
  [[nodiscard]] ByteVector address() const override { return inner_->address(); }
  Status connect(PeerId peer, const ByteVector& address) override { return inner_->connect(peer, address); }
  void disconnect(WorkerId peer) override { inner_->disconnect(peer); }
  void send(WorkerId to, OutgoingFrame frame, SendDone done) override;
  void post_receive(PostedReceive receive, ReceiveDone done) override;
  void set_view(ViewNumber view) override;
  void fence(ViewNumber view, std::function<void()> done) override;
  void probe(WorkerId peer) override { inner_->probe(peer); }
  [[nodiscard]] PeerStats stats(WorkerId peer) const override { return inner_->stats(peer); }
  [[nodiscard]] std::uint64_t foreign_frames() const override { return inner_->foreign_frames(); }
  void stop() override;

 private:
  using LaneKey = std::pair<WorkerId, Direction>;
  // Something that waits for its time; `cancel` happens instead when its view is fenced.
  struct Waiting {
    Instant due;
    ViewNumber view;
    bool later = false;  // not inside the call that caused it
    std::function<void()> release;
    std::function<void()> cancel;
  };
  // What passes between one peer and us in one direction, in the order in which it is released.
  struct Lane {
    Instant free_at;  // of a rate-limited lane
    Instant last_due;
    bool releasing = false;
    std::deque<Waiting> waiting;
  };
  struct Fate {
    bool drop = false;
    bool duplicate = false;
    std::optional<std::uint64_t> corrupt_bit;
  };

  [[nodiscard]] const FaultRule& rule_of(LaneKey key) const;
  Fate decide(LaneKey key, std::uint64_t bytes);
  void enqueue(LaneKey key, std::uint64_t bytes, Waiting waiting);
  void take_inbound(InboundFrame frame);
  void take_received(PostedReceive receive, ReceiveDone done, Result<FrameHeader> result);
  void report_corrupt(const FrameHeader& header);
  void cancel_waiting(std::optional<ViewNumber> up_to);  // nullopt: all
  template <class Callback, class... Arguments>
  void call(const Callback& callback, Arguments&&... arguments);
  void run_timer();

  const std::shared_ptr<Transport> inner_;
  const Clock& clock_;
  TransportHandlers handlers_;
  std::recursive_mutex callback_mutex_;  // callbacks come one at a time; taken before mutex_, never after

  std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  PhiloxStream random_;
  std::map<LaneKey, FaultRule> rules_;
  std::map<Direction, FaultRule> default_rules_;
  std::map<LaneKey, Lane> lanes_;
  bool stopping_ = false;
  std::thread timer_;
};

}  // namespace planaria
