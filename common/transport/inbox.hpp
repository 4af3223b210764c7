// The receiving half of a transport, without any network: which frame is refused, which waits, which buffer it goes
// to, and in what order frames come out. Every Transport implementation owns one.
//
// A frame passes through in two steps. admit() is called in the order of sending, as soon as the header is known, and
// names the memory for the payload; finish() is called when nothing will write to that memory any more. Between the
// two a fence may end the frame: its receive then completes at once, while the Arrival goes on holding the memory
// (quarantine) until finish().
//
// Thread contract: belongs to one thread, save stats(). Callbacks run inside the calls and must not call back into
// the Inbox (transports queue their calls for that reason).
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <tuple>
#include <unordered_map>

#include "common/transport/transport.hpp"

namespace planaria {

// Bounds per peer on frames that are here but not yet handed over, those on their way in included.
struct WaitingBounds {
  std::uint64_t frames = 4096;
  std::uint64_t bytes = std::uint64_t{1} << 30;
  std::uint64_t frame_bytes = std::uint64_t{1} << 30;     // of any one frame
  std::uint64_t pooled_bytes = std::uint64_t{256} << 20;  // of all peers: released payload memory kept for reuse
};

[[nodiscard]] MutableSlice allocate_payload(std::size_t bytes);  // 64-byte aligned, uninitialised
[[nodiscard]] Hash128 hash_slices(std::span<const ConstSlice> slices);

// Payload memory for arriving frames. Large blocks are kept for the next frame, as the system would otherwise give
// zeroed pages anew each time, which costs as much as the copy itself. Blocks may outlive the pool and be released on
// any thread.
class PayloadPool {
 public:
  explicit PayloadPool(std::size_t kept_bytes) : shelf_(std::make_shared<Shelf>(kept_bytes)) {}
  [[nodiscard]] MutableSlice allocate(std::size_t bytes);

 private:
  struct Shelf {
    explicit Shelf(std::size_t bytes) : limit(bytes) {}
    ~Shelf();
    const std::size_t limit;
    std::mutex mutex;
    std::size_t kept = 0;
    std::multimap<std::size_t, std::byte*> blocks;  // by capacity
  };
  std::shared_ptr<Shelf> shelf_;
};

// Counters per peer, shared between a transport's thread and those who ask.
class StatsBook {
 public:
  [[nodiscard]] PeerStats of(WorkerId peer) const;
  template <class Change>
  void update(WorkerId peer, Change change) {
    const std::lock_guard lock(mutex_);
    change(peers_[peer]);
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_map<WorkerId, PeerStats> peers_;
};

class Inbox {
 public:
  // A frame on its way in.
  struct Arrival {
    FrameHeader header;
    MutableSlice target;  // exactly payload_bytes long
    std::optional<std::pair<PostedReceive, ReceiveDone>> receive;
    bool waiting = false;  // counted against the bounds
    bool whole = false;
    bool ended = false;        // a fence or a broken connection ended it
    bool quarantined = false;  // ended before finish()
  };
  enum class Verdict : std::uint8_t { whole, corrupt, unauthenticated, broken };

  Inbox(WaitingBounds bounds, StatsBook& stats) : bounds_(bounds), stats_(stats), pool_(bounds.pooled_bytes) {}

  void set_handlers(TransportHandlers handlers) { handlers_ = std::move(handlers); }

  // False: this life of the peer is over.
  [[nodiscard]] bool allow(PeerId peer);
  void block(WorkerId peer);  // refuse its frames until allow()

  // Null: refused (and counted, and reported where the interface says so).
  [[nodiscard]] std::shared_ptr<Arrival> admit(const FrameHeader& header);
  void finish(const std::shared_ptr<Arrival>& arrival, Verdict verdict);
  // The rest of the frame won't come; its receive ends with unavailable now, finish() is still due.
  void abandon(const std::shared_ptr<Arrival>& arrival);

  void post(PostedReceive receive, ReceiveDone done);
  void set_view(ViewNumber view);
  void fence(ViewNumber view);
  [[nodiscard]] bool is_fenced(ViewNumber view) const { return fenced_ && view <= *fenced_; }
  // Ends all receives with cancelled and refuses everything from now on.
  void close();

 private:
  using Key = std::tuple<ViewNumber, WorkerId, std::uint64_t>;  // views first: a fence cuts off a prefix
  struct Channel {
    std::deque<std::pair<PostedReceive, ReceiveDone>> posted;
    std::deque<std::shared_ptr<Arrival>> arrivals;  // in the order of sending
  };
  struct Source {
    Incarnation incarnation;
    bool blocked = false;
    std::uint64_t waiting_frames = 0;
    std::uint64_t waiting_bytes = 0;
  };

  std::shared_ptr<Arrival> refuse_overflow(const FrameHeader& header, const char* why);
  void deliver_ready(const Key& key);
  void hand_over(const std::shared_ptr<Arrival>& arrival, Channel& channel);
  void complete(std::pair<PostedReceive, ReceiveDone> receive, const FrameHeader& header);
  void end(const std::shared_ptr<Arrival>& arrival, ErrorCode code, const std::string& why);
  void stop_waiting(Arrival& arrival);
  void remove(const std::shared_ptr<Arrival>& arrival);
  void end_channel(Channel& channel);

  const WaitingBounds bounds_;
  StatsBook& stats_;
  PayloadPool pool_;
  TransportHandlers handlers_;
  ViewNumber view_;
  std::optional<ViewNumber> fenced_;
  bool closed_ = false;
  std::map<Key, Channel> channels_;
  std::unordered_map<WorkerId, Source> sources_;
};

}  // namespace planaria
