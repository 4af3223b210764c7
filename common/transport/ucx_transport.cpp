#include "common/transport/ucx_transport.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include "common/transport/ucx_receiver.hpp"
#include "common/transport/ucx_sender.hpp"

namespace planaria {
namespace {

constexpr std::uint32_t kAddressMagic = 0x414E4C50;  // "PLNA"
constexpr std::size_t kMaxAddressBytes = std::size_t{64} << 10;
constexpr Duration kMinSpin = std::chrono::microseconds(1);
constexpr int kIdleWakeup_ms = 500;                               // UCX's own timers run only inside progress
constexpr Duration kCloseLimit = std::chrono::milliseconds(500);  // for forced closes to finish

// The opaque blob of Transport::address().
struct AddressBlob {
  std::uint32_t magic = kAddressMagic;
  WorkerId worker;
  Incarnation incarnation;
  ByteVector ucx;
  Hash128 hash;  // of `ucx`: UCX trusts the bytes it is given

  template <class V>
  void fields(V& v) {
    v(magic, worker, incarnation, ucx, hash);
  }
};

Hash128 hash_address(const ByteVector& ucx) {
  return hash_of(std::span<const std::uint8_t>(ucx));
}

class UcxTransport final : public Transport {
 public:
  explicit UcxTransport(UcxOptions options) : options_(std::move(options)), inbox_(options_.waiting, stats_) {}
  ~UcxTransport() override;

  Status open();

  Status start(TransportHandlers handlers) override;
  [[nodiscard]] ByteVector address() const override { return address_; }
  Status connect(PeerId peer, const ByteVector& address) override;
  void disconnect(WorkerId peer) override;
  void send(WorkerId to, OutgoingFrame frame, SendDone done) override;
  void post_receive(PostedReceive receive, ReceiveDone done) override;
  void set_view(ViewNumber view) override;
  void fence(ViewNumber view, std::function<void()> done) override;
  void probe(WorkerId peer) override;
  [[nodiscard]] PeerStats stats(WorkerId peer) const override { return stats_.of(peer); }
  [[nodiscard]] std::uint64_t foreign_frames() const override { return receiver_->foreign_frames(); }
  void stop() override;

 private:
  using Command = std::function<void()>;

  void submit(Command command);
  bool run_commands();
  void run();
  void shut_down();
  void sleep();
  bool work();
  static ucs_status_t on_probe(void* argument, const void* header, std::size_t header_bytes, void* data,
                               std::size_t bytes, const ucp_am_recv_param_t* param);

  const UcxOptions options_;
  const SteadyClock clock_;
  StatsBook stats_;
  TransportHandlers handlers_;

  // The progress thread's.
  std::unique_ptr<UcxWorker> worker_;
  Inbox inbox_;
  std::unique_ptr<UcxSender> sender_;
  std::unique_ptr<UcxReceiver> receiver_;
  ByteVector address_;
  int epoll_fd_ = -1;
  int wakeup_fd_ = -1;
  Duration spin_ = kMinSpin;

  std::atomic<bool> sleeping_{false};
  std::atomic<bool> stopping_{false};
  std::mutex mutex_;
  std::vector<Command> commands_;                           // guarded by mutex_
  bool over_ = false;                                       // guarded by mutex_: the thread takes no more commands
  std::unordered_map<WorkerId, Incarnation> incarnations_;  // guarded by mutex_: the highest connected to

  std::mutex stop_mutex_;
  std::thread thread_;
};

Status UcxTransport::open() {
  PLANARIA_ASSIGN(worker_, UcxWorker::create(options_));
  AddressBlob blob;
  blob.worker = options_.self.worker;
  blob.incarnation = options_.self.incarnation;
  blob.ucx = worker_->address();
  blob.hash = hash_address(blob.ucx);
  address_ = encode(blob);
  wakeup_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  epoll_fd_ = epoll_create1(EPOLL_CLOEXEC);
  for (const int fd : {wakeup_fd_, worker_->event_fd()}) {
    epoll_event event{};
    event.events = EPOLLIN;
    if (wakeup_fd_ < 0 || epoll_fd_ < 0 || epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0) {
      return Error(ErrorCode::io, std::string("the transport's wakeup: ") + std::strerror(errno));
    }
  }
  sender_ = std::make_unique<UcxSender>(options_, *worker_, stats_, [this](PeerId peer, const std::string& why) {
    receiver_->abandon(peer.worker);
    if (handlers_.event) handlers_.event({TransportEvent::Kind::peer_error, peer, std::nullopt, why});
  });
  receiver_ = std::make_unique<UcxReceiver>(options_, *worker_, stats_, inbox_);
  return ok_status();
}

UcxTransport::~UcxTransport() {
  stop();
  // UCX first: its worker may still call back into the halves while it goes.
  if (receiver_) receiver_->abandon_all();
  worker_.reset();
  if (epoll_fd_ >= 0) close(epoll_fd_);
  if (wakeup_fd_ >= 0) close(wakeup_fd_);
}

Status UcxTransport::start(TransportHandlers handlers) {
  if (thread_.joinable()) return Error(ErrorCode::invalid_argument, "the transport was started already");
  handlers_ = handlers;
  inbox_.set_handlers(std::move(handlers));
  PLANARIA_TRY(receiver_->listen());
  PLANARIA_TRY(worker_->on_message(kProbeMessage, on_probe, this));
  thread_ = std::thread([this] { run(); });
  return ok_status();
}

Status UcxTransport::connect(PeerId peer, const ByteVector& address) {
  if (address.size() > kMaxAddressBytes) return Error(ErrorCode::invalid_argument, "the transport address is too long");
  auto blob = decode<AddressBlob>(address);
  if (!blob || blob->magic != kAddressMagic || blob->hash != hash_address(blob->ucx)) {
    return Error(ErrorCode::invalid_argument, "the transport address is malformed");
  }
  if (blob->worker != peer.worker || blob->incarnation != peer.incarnation) {
    return Error(ErrorCode::invalid_argument, "the transport address is another worker's");
  }
  {
    const std::lock_guard lock(mutex_);
    Incarnation& known = incarnations_[peer.worker];
    if (peer.incarnation < known) {
      return Error(ErrorCode::invalid_argument, "a later incarnation of the worker was connected already");
    }
    known = peer.incarnation;
  }
  submit([this, peer, ucx = std::move(blob->ucx)] {
    if (inbox_.allow(peer)) {
      sender_->connect(peer, ucx);
    } else {
      stats_.update(peer.worker, [](PeerStats& s) { ++s.peer_errors; });
      if (handlers_.event) {
        handlers_.event({TransportEvent::Kind::peer_error, peer, std::nullopt, "a later incarnation has sent already"});
      }
    }
  });
  return ok_status();
}

void UcxTransport::disconnect(WorkerId peer) {
  submit([this, peer] {
    inbox_.block(peer);
    sender_->disconnect(peer);
    receiver_->abandon(peer);
  });
}

void UcxTransport::send(WorkerId to, OutgoingFrame frame, SendDone done) {
  // Hashed here, on the caller's core, and not on the one thread that serves everybody.
  if (!frame.payload_hash) frame.payload_hash = hash_slices(frame.payload);
  submit([this, to, frame = std::move(frame), done = std::move(done)]() mutable {
    sender_->send(to, std::move(frame), std::move(done));
  });
}

void UcxTransport::post_receive(PostedReceive receive, ReceiveDone done) {
  submit([this, receive = std::move(receive), done = std::move(done)]() mutable {
    inbox_.post(std::move(receive), std::move(done));
  });
}

void UcxTransport::set_view(ViewNumber view) {
  submit([this, view] {
    if (view != ViewNumber()) sender_->fence(view.previous());
    inbox_.set_view(view);
    receiver_->sweep();
  });
}

void UcxTransport::fence(ViewNumber view, std::function<void()> done) {
  submit([this, view, done = std::move(done)] {
    sender_->fence(view);
    inbox_.fence(view);
    receiver_->sweep();
    if (done) done();
  });
}

void UcxTransport::probe(WorkerId peer) {
  submit([this, peer] { sender_->probe(peer, false, clock_.now().ns); });
}

ucs_status_t UcxTransport::on_probe(void* argument, const void* header, std::size_t header_bytes, void*, std::size_t,
                                    const ucp_am_recv_param_t*) {
  auto* self = static_cast<UcxTransport*>(argument);
  ProbeMessage message;
  if (header_bytes != sizeof message) {
    self->receiver_->count_foreign();
    return UCS_OK;
  }
  std::memcpy(&message, header, sizeof message);
  if (message.job != self->options_.job || message.to != self->options_.self.worker.value()) {
    self->receiver_->count_foreign();
  } else if (message.is_reply == 0) {
    self->sender_->probe(WorkerId(message.from), true, message.sent_ns);
  } else {
    const Duration rtt(self->clock_.now().ns - message.sent_ns);
    self->stats_.update(WorkerId(message.from), [&](PeerStats& s) { s.last_rtt = std::max(rtt, Duration(1)); });
  }
  return UCS_OK;
}

void UcxTransport::submit(Command command) {
  {
    const std::lock_guard lock(mutex_);
    if (over_) return;
    commands_.push_back(std::move(command));
  }
  if (sleeping_.exchange(false)) {
    const std::uint64_t one = 1;
    static_cast<void>(!write(wakeup_fd_, &one, sizeof one));  // full means that a wakeup is pending
  }
}

bool UcxTransport::run_commands() {
  std::vector<Command> batch;
  {
    const std::lock_guard lock(mutex_);
    batch.swap(commands_);
  }
  for (Command& command : batch) command();
  return !batch.empty();
}

bool UcxTransport::work() {
  bool active = run_commands();
  active |= sender_->advance();
  active |= worker_->progress();
  return active;
}

void UcxTransport::run() {
  Instant idle_since = clock_.now();
  while (!stopping_) {
    if (work()) {
      idle_since = clock_.now();
    } else if (clock_.now() - idle_since >= spin_) {
      sleep();
      idle_since = clock_.now();
    }
  }
  shut_down();
}

void UcxTransport::sleep() {
  sleeping_ = true;
  {
    const std::lock_guard lock(mutex_);
    if (!commands_.empty() || stopping_) {
      sleeping_ = false;
      return;
    }
  }
  if (worker_->arm()) {
    const Instant asleep = clock_.now();
    epoll_event events[2];
    epoll_wait(epoll_fd_, events, 2, kIdleWakeup_ms);
    std::uint64_t ignored = 0;
    static_cast<void>(!read(wakeup_fd_, &ignored, sizeof ignored));
    // Spinning pays when the next event comes within a spin.
    spin_ = clock_.now() - asleep < options_.max_spin ? std::min(spin_ * 2, options_.max_spin)
                                                      : std::max(spin_ / 2, kMinSpin);
  }
  sleeping_ = false;
}

void UcxTransport::shut_down() {
  run_commands();
  sender_->stop_accepting();
  inbox_.close();
  const Instant drained = clock_.now() + options_.drain;
  while (!sender_->idle() && clock_.now() < drained) {
    if (!work()) std::this_thread::yield();
  }
  sender_->close_all();
  receiver_->abandon_all();
  const Instant limit = clock_.now() + kCloseLimit;
  while ((worker_->closing() || !sender_->idle() || !receiver_->idle()) && clock_.now() < limit) {
    if (!work()) std::this_thread::yield();
  }
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  run_commands();
}

void UcxTransport::stop() {
  const std::lock_guard lock(stop_mutex_);
  stopping_ = true;
  if (!thread_.joinable()) return;
  const std::uint64_t one = 1;
  static_cast<void>(!write(wakeup_fd_, &one, sizeof one));
  thread_.join();
}

}  // namespace

Result<std::unique_ptr<Transport>> make_ucx_transport(UcxOptions options) {
  auto transport = std::make_unique<UcxTransport>(std::move(options));
  PLANARIA_TRY(transport->open());
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace planaria
