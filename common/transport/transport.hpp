// The data plane between workers: frames of bytes with a header, sent to a peer, tagged with a view. It knows bytes,
// peers and views, and nothing of training. Three implementations share this interface: UcxTransport (real
// processes), InProcessTransport (deterministic, pumped by a test) and FaultyTransport (a decorator that injects
// faults).
//
// What it promises. A frame that is handed to the receiver is whole and matches its XXH3-128 hash. Frames sent to one
// peer over one connection with one (view, tag) arrive in the order in which they were sent. Frames of a view newer
// than the current one wait, within bounds, for set_view; frames of a fenced view are refused and counted. A
// completed send means only that the buffer is free again, never that the peer has the frame. A lost peer is reported
// as a hint, and possibly never: leases decide who is dead.
//
// Thread contract: every method may be called from any thread and from inside callbacks, and none blocks, save stop(),
// which must not be called from a callback. Calls of one thread take effect in their order. Callbacks come one at a
// time from the transport's own thread (or from inside pump()); they must not block. None comes after stop() returned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/clock.hpp"
#include "common/codec.hpp"
#include "common/hash.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"

namespace planaria {

// A worker in one of its lives.
struct PeerId {
  WorkerId worker;
  Incarnation incarnation;

  constexpr auto operator<=>(const PeerId&) const = default;
};

// Bytes and what keeps them alive. The transport holds `owner` as long as the network may touch the bytes, also after
// the operation was reported as cancelled: a buffer whose owner is released may be used again, and none before.
struct ConstSlice {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};
struct MutableSlice {
  std::span<std::byte> bytes;
  std::shared_ptr<void> owner;
};

// What becomes of a frame for which no receive is posted when it arrives.
enum class Delivery : std::uint8_t {
  handler,  // it goes to TransportHandlers::frame in a buffer of its own
  matched,  // it waits, within bounds, until a receive with its (peer, view, tag) is posted
  count_,
};

struct FrameHeader {
  std::uint64_t job = 0;
  ViewNumber view;
  PeerId from;
  std::uint16_t kind = 0;  // the caller's
  Delivery delivery = Delivery::handler;
  std::uint64_t tag = 0;  // the caller's
  std::uint64_t payload_bytes = 0;
  Hash128 payload_hash;

  bool operator==(const FrameHeader&) const = default;
};

struct OutgoingFrame {
  ViewNumber view;
  std::uint16_t kind = 0;
  Delivery delivery = Delivery::handler;
  std::uint64_t tag = 0;
  std::vector<ConstSlice> payload = {};                // gathered in order; may be empty
  std::optional<Hash128> payload_hash = std::nullopt;  // of the gathered bytes, where the caller already knows it
};

struct InboundFrame {
  FrameHeader header;
  MutableSlice payload;  // exclusively the receiver's
};

// A receive takes the first frame from `from` with this view and tag, posted receives of one key in their order.
struct PostedReceive {
  WorkerId from;
  ViewNumber view;
  std::uint64_t tag = 0;
  MutableSlice buffer;
};

struct TransportEvent {
  enum class Kind : std::uint8_t {
    peer_error,  // the connection to the peer broke: a hint. Its operations are over; connect() again to go on
    corrupt,     // a frame's payload didn't match its hash. It was dropped, its receive stays posted: ask for it again
    overflow,    // a frame was refused because too much was waiting already: ask for it again later
  };
  Kind kind;
  PeerId peer;
  std::optional<FrameHeader> header = std::nullopt;  // of the frame, where there was one
  std::string detail = {};
};

// ok: the buffers are free. cancelled: its view was fenced or the transport stopped. unavailable: no connection, or
// it broke.
using SendDone = std::function<void(Status)>;
// The header of the frame that is now in the buffer; its payload_bytes may be less than the buffer's size. cancelled,
// unavailable (the sender broke off inside the frame): as above. mismatch: the frame was larger than the buffer and is
// gone. After an error the buffer may only be reused once its owner was released.
using ReceiveDone = std::function<void(Result<FrameHeader>)>;

struct TransportHandlers {
  std::function<void(InboundFrame)> frame;
  std::function<void(TransportEvent)> event;
};

struct PeerStats {
  std::uint64_t frames_out = 0;  // completed with ok
  std::uint64_t bytes_out = 0;   // payload of these
  std::uint64_t frames_in = 0;   // handed to the handler or to a receive
  std::uint64_t bytes_in = 0;
  std::uint64_t send_errors = 0;
  std::uint64_t peer_errors = 0;
  std::uint64_t cancelled = 0;         // sends and receives ended by a fence
  std::uint64_t refused_stale = 0;     // frames of a fenced view or an earlier incarnation
  std::uint64_t refused_overflow = 0;  // frames over a waiting bound
  std::uint64_t held = 0;              // frames that had to wait for their view, ever
  std::uint64_t corrupt = 0;           // hash mismatches
  std::uint64_t unauthenticated = 0;   // dropped for a wrong authentication tag
  std::uint64_t duplicates = 0;        // dropped because the same frame had arrived already
  std::uint64_t waiting_frames = 0;    // now: held or unmatched
  std::uint64_t waiting_bytes = 0;
  std::uint64_t quarantined_bytes = 0;  // now: buffers of cancelled operations that the network may still touch
  Duration last_rtt{0};                 // of the last answered probe(); 0 = none yet
  double bytes_per_second = 0;          // of the fastest large frames of late to it; 0 = none yet
  std::uint64_t rated_frames = 0;       // that this was taken from

  bool operator==(const PeerStats&) const = default;
};

class Transport {
 public:
  virtual ~Transport() = default;

  // Begins to receive. Called once, before everything else but address(). Frames that arrive before it wait.
  virtual Status start(TransportHandlers handlers) = 0;

  // What a peer needs for connect(); opaque.
  [[nodiscard]] virtual ByteVector address() const = 0;

  // Replaces any connection to this worker. Returns before the connection stands; an unreachable address shows up as
  // peer_error. invalid_argument: malformed or another worker's address, or an incarnation that is over.
  virtual Status connect(PeerId peer, const ByteVector& address) = 0;

  // Closes by force. Unfinished sends to it end with unavailable, their buffers are released. Frames that it sends are
  // refused until it is connected again.
  virtual void disconnect(WorkerId peer) = 0;

  virtual void send(WorkerId to, OutgoingFrame frame, SendDone done) = 0;

  virtual void post_receive(PostedReceive receive, ReceiveDone done) = 0;

  // Enters a view: fences all earlier ones, then delivers what was held for it. Views never go back: a lower number
  // is ignored.
  virtual void set_view(ViewNumber view) = 0;

  // Ends `view` and all earlier ones: their unfinished sends and receives complete with cancelled, nothing of them is
  // delivered any more. Then calls `done`, if given.
  virtual void fence(ViewNumber view, std::function<void()> done = {}) = 0;

  // Measures the round trip to a connected peer into its last_rtt.
  virtual void probe(WorkerId peer) = 0;

  [[nodiscard]] virtual PeerStats stats(WorkerId peer) const = 0;
  // Frames that can't be laid to a peer: malformed, of another job, or for another receiver.
  [[nodiscard]] virtual std::uint64_t foreign_frames() const = 0;

  // Ends everything within a bounded time: sends that the network has taken get a short while to leave, all other
  // operations complete with cancelled. Calls made afterwards do nothing. May be called again.
  virtual void stop() = 0;
};

}  // namespace planaria
