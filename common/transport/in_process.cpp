#include "common/transport/in_process.hpp"

#include <cstring>
#include <utility>

namespace planaria {

class InProcessTransport final : public Transport, public std::enable_shared_from_this<InProcessTransport> {
 public:
  InProcessTransport(InProcessNetwork& network, PeerId self, WaitingBounds bounds)
      : network_(network), self_(self), inbox_(bounds, stats_) {}
  ~InProcessTransport() override { stop(); }

  Status start(TransportHandlers handlers) override;
  [[nodiscard]] ByteVector address() const override { return encode(Address{self_}); }
  Status connect(PeerId peer, const ByteVector& address) override;
  void disconnect(WorkerId peer) override;
  void send(WorkerId to, OutgoingFrame frame, SendDone done) override;
  void post_receive(PostedReceive receive, ReceiveDone done) override;
  void set_view(ViewNumber view) override;
  void fence(ViewNumber view, std::function<void()> done) override;
  void probe(WorkerId peer) override;
  [[nodiscard]] PeerStats stats(WorkerId peer) const override { return stats_.of(peer); }
  [[nodiscard]] std::uint64_t foreign_frames() const override { return 0; }
  void stop() override;

  // The process of `peer` is gone.
  void lose(PeerId peer);
  // This transport's own process is gone: nothing more happens here, no callback comes.
  void die() { dead_ = true; }

 private:
  struct Address {
    PeerId id;
    template <class V>
    void fields(V& v) {
      v(id.worker, id.incarnation);
    }
  };
  // A frame between sender and receiver.
  struct Flight {
    WorkerId to;
    FrameHeader header;
    std::vector<ConstSlice> payload;
    SendDone done;
  };

  void submit(std::function<void()> action);
  void begin_send(WorkerId to, OutgoingFrame frame, SendDone done);
  void arrive(std::uint64_t number, PeerId peer);
  void take(const Flight& flight);
  void report(const Flight& flight, const Status& status);
  template <class Which>
  void end_sends(Which which, ErrorCode code, const char* why);
  void fence_sends(ViewNumber view);
  void end_connection(WorkerId peer, const char* why);
  void peer_error(PeerId peer, const char* why);

  InProcessNetwork& network_;
  const PeerId self_;
  StatsBook stats_;
  TransportHandlers handlers_;
  Inbox inbox_;
  bool started_ = false;
  bool dead_ = false;
  std::map<WorkerId, PeerId> connections_;
  std::map<WorkerId, Incarnation> known_;
  std::uint64_t next_flight_ = 0;
  std::map<std::uint64_t, Flight> flights_;
};

Status InProcessTransport::start(TransportHandlers handlers) {
  if (started_) return Error(ErrorCode::invalid_argument, "the transport was started already");
  started_ = true;
  handlers_ = handlers;
  inbox_.set_handlers(std::move(handlers));
  return ok_status();
}

void InProcessTransport::submit(std::function<void()> action) {
  if (dead_) return;
  network_.actions_.push_back([this, weak = weak_from_this(), action = std::move(action)] {
    const auto alive = weak.lock();
    if (alive && !dead_) action();
  });
}

Status InProcessTransport::connect(PeerId peer, const ByteVector& address) {
  const auto named = decode<Address>(address);
  if (!named) return Error(ErrorCode::invalid_argument, "the transport address is malformed");
  if (named.value().id != peer) {
    return Error(ErrorCode::invalid_argument, "the transport address is another worker's");
  }
  Incarnation& known = known_[peer.worker];
  if (peer.incarnation < known) {
    return Error(ErrorCode::invalid_argument, "a later incarnation of the worker was connected already");
  }
  known = peer.incarnation;
  submit([this, peer] {
    end_connection(peer.worker, "replaced");
    if (!inbox_.allow(peer)) return peer_error(peer, "a later incarnation has sent already");
    if (network_.alive(peer) == nullptr) return peer_error(peer, "nobody answers at the address");
    connections_[peer.worker] = peer;
  });
  return ok_status();
}

void InProcessTransport::disconnect(WorkerId peer) {
  submit([this, peer] {
    inbox_.block(peer);
    end_connection(peer, "disconnected");
  });
}

void InProcessTransport::send(WorkerId to, OutgoingFrame frame, SendDone done) {
  if (!frame.payload_hash) frame.payload_hash = hash_slices(frame.payload);
  submit([this, to, frame = std::move(frame), done = std::move(done)] { begin_send(to, frame, done); });
}

void InProcessTransport::begin_send(WorkerId to, OutgoingFrame frame, SendDone done) {
  Flight flight;
  flight.to = to;
  flight.done = std::move(done);
  FrameHeader& header = flight.header;
  header.job = network_.job_;
  header.view = frame.view;
  header.from = self_;
  header.kind = frame.kind;
  header.delivery = frame.delivery;
  header.tag = frame.tag;
  header.payload_hash = *frame.payload_hash;
  for (const ConstSlice& slice : frame.payload) header.payload_bytes += slice.bytes.size();
  flight.payload = std::move(frame.payload);
  if (inbox_.is_fenced(header.view)) {
    return report(flight, Error(ErrorCode::cancelled, "the frame's view is over"));
  }
  const auto connection = connections_.find(to);
  if (connection == connections_.end()) {
    return report(flight, Error(ErrorCode::unavailable, "there is no connection to the worker"));
  }
  const std::uint64_t number = next_flight_++;
  flights_.emplace(number, std::move(flight));
  submit([this, number, peer = connection->second] { arrive(number, peer); });
}

void InProcessTransport::arrive(std::uint64_t number, PeerId peer) {
  const auto entry = flights_.extract(number);
  if (entry.empty()) return;  // it was cancelled on its way
  if (InProcessTransport* receiver = network_.alive(peer); receiver != nullptr && receiver->started_) {
    receiver->take(entry.mapped());
  }
  report(entry.mapped(), ok_status());
}

void InProcessTransport::take(const Flight& flight) {
  const auto arrival = inbox_.admit(flight.header);
  if (!arrival) return;
  std::size_t at = 0;
  for (const ConstSlice& slice : flight.payload) {
    if (!slice.bytes.empty()) std::memcpy(arrival->target.bytes.data() + at, slice.bytes.data(), slice.bytes.size());
    at += slice.bytes.size();
  }
  const bool whole = hash_bytes(arrival->target.bytes) == flight.header.payload_hash;
  inbox_.finish(arrival, whole ? Inbox::Verdict::whole : Inbox::Verdict::corrupt);
}

void InProcessTransport::report(const Flight& flight, const Status& status) {
  stats_.update(flight.to, [&](PeerStats& s) {
    if (status) {
      ++s.frames_out;
      s.bytes_out += flight.header.payload_bytes;
    } else {
      ++(status.error().code() == ErrorCode::cancelled ? s.cancelled : s.send_errors);
    }
  });
  if (flight.done) flight.done(status);
}

void InProcessTransport::post_receive(PostedReceive receive, ReceiveDone done) {
  submit([this, receive = std::move(receive), done = std::move(done)] { inbox_.post(receive, done); });
}

void InProcessTransport::set_view(ViewNumber view) {
  submit([this, view] {
    if (view != ViewNumber()) fence_sends(view.previous());
    inbox_.set_view(view);
  });
}

void InProcessTransport::fence(ViewNumber view, std::function<void()> done) {
  submit([this, view, done = std::move(done)] {
    fence_sends(view);
    inbox_.fence(view);
    if (done) done();
  });
}

void InProcessTransport::probe(WorkerId peer) {
  submit([this, peer] {
    if (connections_.contains(peer)) stats_.update(peer, [](PeerStats& s) { s.last_rtt = Duration(1); });
  });
}

void InProcessTransport::stop() {
  if (!dead_) {
    end_sends([](const Flight&) { return true; }, ErrorCode::cancelled, "the transport stopped");
    inbox_.close();
  }
  if (network_.alive(self_) == this) network_.kill(self_.worker);
}

void InProcessTransport::lose(PeerId peer) {
  submit([this, peer] {
    const auto found = connections_.find(peer.worker);
    if (found == connections_.end() || found->second != peer) return;
    end_connection(peer.worker, "the peer's process ended");
    peer_error(peer, "the peer's process ended");
  });
}

template <class Which>
void InProcessTransport::end_sends(Which which, ErrorCode code, const char* why) {
  std::vector<Flight> over;
  std::erase_if(flights_, [&](auto& entry) {
    if (!which(entry.second)) return false;
    over.push_back(std::move(entry.second));
    return true;
  });
  for (const Flight& flight : over) report(flight, Error(code, why));
}

void InProcessTransport::fence_sends(ViewNumber view) {
  end_sends([&](const Flight& f) { return f.header.view <= view; }, ErrorCode::cancelled, "the frame's view is over");
}

void InProcessTransport::end_connection(WorkerId peer, const char* why) {
  connections_.erase(peer);
  end_sends([&](const Flight& f) { return f.to == peer; }, ErrorCode::unavailable, why);
}

void InProcessTransport::peer_error(PeerId peer, const char* why) {
  stats_.update(peer.worker, [](PeerStats& s) { ++s.peer_errors; });
  if (handlers_.event) handlers_.event({TransportEvent::Kind::peer_error, peer, std::nullopt, why});
}

std::shared_ptr<Transport> InProcessNetwork::create(PeerId self, WaitingBounds bounds) {
  kill(self.worker);
  auto transport = std::make_shared<InProcessTransport>(*this, self, bounds);
  transports_[self.worker] = {self, transport.get()};
  return transport;
}

InProcessTransport* InProcessNetwork::alive(PeerId peer) const {
  const auto found = transports_.find(peer.worker);
  return found != transports_.end() && found->second.first == peer ? found->second.second : nullptr;
}

void InProcessNetwork::kill(WorkerId worker) {
  const auto entry = transports_.extract(worker);
  if (entry.empty()) return;
  entry.mapped().second->die();
  for (const auto& [other, transport] : transports_) transport.second->lose(entry.mapped().first);
}

bool InProcessNetwork::pump_one() {
  if (actions_.empty()) return false;
  const auto action = std::move(actions_.front());
  actions_.pop_front();
  action();
  return true;
}

std::size_t InProcessNetwork::pump() {
  std::size_t done = 0;
  while (pump_one()) ++done;
  return done;
}

}  // namespace planaria
