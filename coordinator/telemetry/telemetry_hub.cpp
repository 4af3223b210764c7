#include "coordinator/telemetry/telemetry_hub.hpp"

#include <fmt/format.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <string_view>

#include "proto/telemetry.hpp"

namespace planaria {

namespace {

constexpr int kPollMs = 200;      // how soon the thread sees that it must stop
constexpr int kHighWater = 4096;  // frames that wait on either side; more are lost
constexpr int kMaxBurst = 256;    // frames taken in before subscribers are looked at

struct CloseSocket {
  void operator()(void* socket) const { zmq_close(socket); }
};
struct EndContext {
  void operator()(void* context) const { zmq_ctx_term(context); }
};
using Socket = std::unique_ptr<void, CloseSocket>;
using Context = std::unique_ptr<void, EndContext>;

void set(void* socket, int option, int value) {
  zmq_setsockopt(socket, option, &value, sizeof value);
}

// "[::1]" for IPv6, as ZeroMQ wants it.
std::string endpoint(const std::string& address, std::uint16_t port) {
  const bool v6 = address.find(':') != std::string::npos;
  const auto where = port == 0 ? std::string("*") : std::to_string(port);
  return v6 ? fmt::format("tcp://[{}]:{}", address, where) : fmt::format("tcp://{}:{}", address, where);
}

Status bind(void* socket, const TelemetryOptions& options, std::uint16_t wanted, std::uint16_t& bound) {
  set(socket, ZMQ_LINGER, 0);
  set(socket, ZMQ_SNDHWM, kHighWater);
  set(socket, ZMQ_RCVHWM, kHighWater);
  set(socket, ZMQ_HANDSHAKE_IVL, 5000);
  const std::int64_t largest = kMaxTelemetryBytes;
  zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &largest, sizeof largest);
  if (options.address.find(':') != std::string::npos) set(socket, ZMQ_IPV6, 1);
  if (!options.secret.empty()) {
    PLANARIA_ASSIGN(const auto keys, telemetry_keys(options.secret));
    set(socket, ZMQ_CURVE_SERVER, 1);
    if (zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, keys.server.secret_key.data(), 32) != 0) {
      return Error(ErrorCode::unsupported,
                   "this ZeroMQ was built without CURVE, which telemetry beyond loopback needs");
    }
  }
  if (zmq_bind(socket, endpoint(options.address, wanted).c_str()) != 0) {
    return Error(ErrorCode::unavailable,
                 fmt::format("can't listen for telemetry on {}:{}: {}; set cluster.telemetry_port to a free port whose "
                             "successor is free too (0 for any), and cluster.listen to an address of this machine",
                             options.address, wanted, zmq_strerror(zmq_errno())));
  }
  std::array<char, 256> name{};
  std::size_t size = name.size();
  zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, name.data(), &size);
  const std::string_view text(name.data());
  const auto port = text.substr(text.rfind(':') + 1);
  std::from_chars(port.data(), port.data() + port.size(), bound);
  return ok_status();
}

}  // namespace

struct TelemetryHub::Sockets {
  Context context{zmq_ctx_new()};
  Socket pull{zmq_socket(context.get(), ZMQ_PULL)};
  Socket publish{zmq_socket(context.get(), ZMQ_XPUB)};
};

TelemetryHub::TelemetryHub(TelemetryOptions options, const Clock& clock)
    : options_(std::move(options)), clock_(clock), sockets_(std::make_unique<Sockets>()) {}

Result<std::unique_ptr<TelemetryHub>> TelemetryHub::start(TelemetryOptions options, const Clock& clock) {
  std::unique_ptr<TelemetryHub> hub(new TelemetryHub(std::move(options), clock));
  PLANARIA_TRY(hub->open());
  hub->thread_ = std::thread([raw = hub.get()] { raw->run(); });
  return hub;
}

Status TelemetryHub::open() {
  PLANARIA_TRY(bind(sockets_->pull.get(), options_, options_.push_port, push_port_));
  return bind(sockets_->publish.get(), options_, options_.publish_port, publish_port_);
}

TelemetryHub::~TelemetryHub() {
  stopping_.store(true);
  if (thread_.joinable()) thread_.join();
}

TelemetryCounts TelemetryHub::counts() const {
  return {samples_.load(), dropped_.load()};
}

std::map<WorkerId, telemetry::Sample> TelemetryHub::newest() const {
  const auto oldest = clock_.now() - options_.window;
  std::map<WorkerId, telemetry::Sample> newest;
  const std::lock_guard lock(mutex_);
  for (const auto& [worker, samples] : kept_) {
    if (!samples.empty() && samples.back().at >= oldest) newest.emplace(worker, samples.back().sample);
  }
  return newest;
}

std::deque<telemetry::Sample> TelemetryHub::window(WorkerId worker) const {
  const auto oldest = clock_.now() - options_.window;
  std::deque<telemetry::Sample> samples;
  const std::lock_guard lock(mutex_);
  const auto found = kept_.find(worker);
  if (found == kept_.end()) return samples;
  for (const auto& kept : found->second) {
    if (kept.at >= oldest) samples.push_back(kept.sample);
  }
  return samples;
}

void TelemetryHub::run() {
  zmq_msg_t message;
  std::array<zmq_pollitem_t, 2> items{
      {{sockets_->pull.get(), 0, ZMQ_POLLIN, 0}, {sockets_->publish.get(), 0, ZMQ_POLLIN, 0}}};
  while (!stopping_.load()) {
    if (zmq_poll(items.data(), static_cast<int>(items.size()), kPollMs) <= 0) continue;
    for (int i = 0; i < kMaxBurst; ++i) {
      zmq_msg_init(&message);
      const int size = zmq_msg_recv(&message, sockets_->pull.get(), ZMQ_DONTWAIT);
      if (size >= 0) {
        receive({static_cast<const std::uint8_t*>(zmq_msg_data(&message)), static_cast<std::size_t>(size)});
      }
      zmq_msg_close(&message);
      if (size < 0) break;
    }
    // Subscriptions come in here; ZeroMQ has acted on them already.
    for (int size = 0; size >= 0;) {
      zmq_msg_init(&message);
      size = zmq_msg_recv(&message, sockets_->publish.get(), ZMQ_DONTWAIT);
      zmq_msg_close(&message);
    }
  }
}

void TelemetryHub::receive(std::span<const std::uint8_t> frame) {
  telemetry::Envelope envelope;
  const bool good = frame.size() <= kMaxTelemetryBytes &&
                    envelope.ParseFromArray(frame.data(), static_cast<int>(frame.size())) && envelope.version() >= 1 &&
                    envelope.version() <= kTelemetryVersion && envelope.job_key() == options_.job_key;
  if (!good) {
    dropped_.fetch_add(1);
    return;
  }
  for (const auto& sample : envelope.samples()) keep(sample);
  samples_.fetch_add(static_cast<std::uint64_t>(envelope.samples_size()));
  std::string out(kTelemetryTopic);
  out.append(reinterpret_cast<const char*>(frame.data()), frame.size());
  zmq_send(sockets_->publish.get(), out.data(), out.size(), ZMQ_DONTWAIT);  // lossy by design
}

void TelemetryHub::keep(const telemetry::Sample& sample) {
  const auto now = clock_.now();
  const WorkerId worker(sample.worker());
  const std::lock_guard lock(mutex_);
  if (!kept_.contains(worker) && kept_.size() >= kMaxWorkers) return;
  auto& samples = kept_[worker];
  const auto stale = [&](const telemetry::Sample& newest) {
    return sample.incarnation() < newest.incarnation() ||
           (sample.incarnation() == newest.incarnation() && sample.monotonic_ns() < newest.monotonic_ns());
  };
  if (!samples.empty() && stale(samples.back().sample)) return;
  const std::size_t size = sample.ByteSizeLong() + sizeof(Kept);
  while (!samples.empty() && (samples.size() >= options_.max_samples_per_worker ||
                              samples.front().at < now - options_.window || kept_bytes_ + size > kMaxKeptBytes)) {
    kept_bytes_ -= samples.front().bytes;
    samples.pop_front();
  }
  if (kept_bytes_ + size > kMaxKeptBytes) return;
  kept_bytes_ += size;
  samples.push_back({now, size, sample});
}

}  // namespace planaria
