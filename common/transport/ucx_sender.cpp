#include "common/transport/ucx_sender.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>

namespace planaria {
namespace {

// Smaller neighbouring slices are copied together rather than sent one by one.
constexpr std::size_t kGatherBytes = std::size_t{32} << 10;
// Frames from which a connection's rate is taken; what fits into a socket's buffer tells nothing.
constexpr std::uint64_t kRateBytes = std::uint64_t{1} << 20;
// A busy receiver only slows a frame down: the fastest tells, and is forgotten slowly.
constexpr double kRateKept = 0.98;

}  // namespace

struct UcxSender::Operation {
  std::weak_ptr<Connection> connection;
  WorkerId to;
  OutgoingFrame frame;
  WireHeader header;
  SendDone done;  // empty once reported
  std::size_t slice = 0;
  std::size_t slice_offset = 0;
  bool started = false;
  double started_at = 0;  // own_seconds_
  bool all_given = false;
  std::size_t chunks = 0;  // with UCX
  bool quarantined = false;
};

struct UcxSender::Connection {
  PeerId peer;
  std::uint64_t session = 0;
  std::uint64_t next_sequence = 0;
  std::size_t next_endpoint = 0;
  bool broken = false;
  std::string why;
  std::vector<std::shared_ptr<UcxEndpoint>> endpoints;
  std::optional<FrameAuthenticator> authenticator;
  std::deque<std::shared_ptr<Operation>> queue;      // not all given to UCX
  std::list<std::shared_ptr<Operation>> operations;  // not reported
};

// One active message, alive until UCX is done with it.
struct UcxSender::Chunk {
  UcxSender* sender = nullptr;
  std::shared_ptr<Operation> operation;  // null: a probe
  std::shared_ptr<UcxEndpoint> endpoint;
  WireHeaderBytes header{};
  ProbeMessage probe{};
  std::vector<std::byte> gathered;
  std::size_t bytes = 0;
};

UcxSender::UcxSender(const UcxOptions& options, UcxWorker& worker, StatsBook& stats,
                     std::function<void(PeerId, std::string)> on_broken)
    : options_(options), worker_(worker), stats_(stats), on_broken_(std::move(on_broken)) {}

void UcxSender::connect(PeerId peer, const ByteVector& ucx_address) {
  disconnect(peer.worker);
  if (!accepting_) return;
  auto connection = std::make_shared<Connection>();
  connection->peer = peer;
  // Wall time makes sessions grow also across a restart that wrongly kept its incarnation.
  const auto wall = std::chrono::system_clock::now().time_since_epoch();
  last_session_ = std::max<std::uint64_t>(last_session_ + 1, std::chrono::duration_cast<Duration>(wall).count());
  connection->session = last_session_;
  if (options_.key) {
    WireHeader sample;
    sample.frame.job = options_.job;
    sample.frame.from = options_.self;
    sample.to = peer;
    sample.session = connection->session;
    connection->authenticator.emplace(*options_.key, sample);
  }
  connections_[peer.worker] = connection;
  for (unsigned i = 0; i < std::max(1U, options_.endpoints_per_peer); ++i) {
    // The endpoint outlives the connection while it closes, hence the weak pointer; closing waits for advance(),
    // because UCX forbids it inside its callback.
    auto opened = worker_.open(ucx_address, [weak = std::weak_ptr<Connection>(connection)](ucs_status_t status) {
      if (const auto broken = weak.lock(); broken && !broken->broken) {
        broken->broken = true;
        broken->why = ucs_status_string(status);
      }
    });
    if (!opened) {
      connection->broken = true;
      connection->why = opened.error().message();
      return;
    }
    connection->endpoints.push_back(std::move(*opened));
  }
}

void UcxSender::disconnect(WorkerId peer) {
  const auto found = connections_.find(peer);
  if (found == connections_.end()) return;
  const auto connection = found->second;
  connections_.erase(found);
  break_connection(*connection, ErrorCode::unavailable, "disconnected");
}

void UcxSender::break_connection(Connection& connection, ErrorCode code, const std::string& why) {
  for (auto& endpoint : connection.endpoints) worker_.close(std::move(endpoint));
  connection.endpoints.clear();
  connection.queue.clear();
  while (!connection.operations.empty()) {
    const auto operation = connection.operations.front();
    report(*operation, Error(code, why));
  }
}

void UcxSender::report(Operation& operation, Status status) {
  if (!operation.done) return;
  const SendDone done = std::exchange(operation.done, nullptr);
  const std::uint64_t bytes = operation.header.frame.payload_bytes;
  double seconds = 0;
  if (operation.started) {
    pass_time();
    --started_;
    seconds = own_seconds_ - operation.started_at;
  }
  stats_.update(operation.to, [&](PeerStats& s) {
    if (status) {
      ++s.frames_out;
      s.bytes_out += bytes;
      if (bytes >= kRateBytes && seconds > 0) {
        s.bytes_per_second = std::max(s.bytes_per_second * kRateKept, static_cast<double>(bytes) / seconds);
        ++s.rated_frames;
      }
    } else {
      ++(status.error().code() == ErrorCode::cancelled ? s.cancelled : s.send_errors);
      if (operation.chunks != 0) s.quarantined_bytes += bytes;
    }
  });
  operation.quarantined = !status && operation.chunks != 0;
  if (!operation.quarantined) operation.frame.payload.clear();
  if (const auto connection = operation.connection.lock()) {
    std::erase_if(connection->operations, [&](const auto& other) { return other.get() == &operation; });
  }
  done(std::move(status));
}

// Frames that are under way at once share the network card: each has its part of the time.
void UcxSender::pass_time() {
  const Instant now = clock_.now();
  if (started_ > 0) own_seconds_ += to_seconds(now - passed_) / static_cast<double>(started_);
  passed_ = now;
}

void UcxSender::send(WorkerId to, OutgoingFrame frame, SendDone done) {
  auto operation = std::make_shared<Operation>();
  operation->to = to;
  operation->done = std::move(done);
  if (!operation->done) operation->done = [](const Status&) {};
  if (!accepting_) return report(*operation, Error(ErrorCode::cancelled, "the transport is stopping"));
  if (fenced_ && frame.view <= *fenced_) {
    return report(*operation, Error(ErrorCode::cancelled, "the frame's view is over"));
  }
  const auto found = connections_.find(to);
  if (found == connections_.end() || found->second->broken) {
    return report(*operation, Error(ErrorCode::unavailable, "there is no connection to the worker"));
  }
  const auto& connection = found->second;
  FrameHeader& header = operation->header.frame;
  header.job = options_.job;
  header.view = frame.view;
  header.from = options_.self;
  header.kind = frame.kind;
  header.delivery = frame.delivery;
  header.tag = frame.tag;
  std::erase_if(frame.payload, [](const ConstSlice& slice) { return slice.bytes.empty(); });
  for (const ConstSlice& slice : frame.payload) header.payload_bytes += slice.bytes.size();
  header.payload_hash = *frame.payload_hash;
  operation->frame = std::move(frame);
  operation->connection = connection;
  operation->header.to = connection->peer;
  operation->header.session = connection->session;
  operation->header.keyed = options_.key.has_value();
  connection->operations.push_back(operation);
  connection->queue.push_back(std::move(operation));
}

void UcxSender::probe(WorkerId peer, bool is_reply, std::int64_t sent_ns) {
  const auto found = connections_.find(peer);
  if (found == connections_.end() || found->second->broken || !accepting_) return;
  auto chunk = std::make_unique<Chunk>();
  chunk->sender = this;
  chunk->endpoint = found->second->endpoints.front();
  chunk->probe = {options_.job, options_.self.worker.value(), peer.value(), is_reply ? 1U : 0U, 0, sent_ns};
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = on_sent;
  param.user_data = chunk.get();
  const ucs_status_ptr_t request =
      ucp_am_send_nbx(chunk->endpoint->handle, kProbeMessage, &chunk->probe, sizeof chunk->probe, nullptr, 0, &param);
  if (!UCS_PTR_IS_PTR(request)) return;
  ++chunks_in_flight_;
  static_cast<void>(chunk.release());  // on_sent takes it back
}

bool UcxSender::advance() {
  bool active = false;
  std::vector<std::shared_ptr<Connection>> all;
  for (const auto& [worker, connection] : connections_) {
    if (connection->broken || !connection->queue.empty()) all.push_back(connection);
  }
  for (const auto& connection : all) {
    while (!connection->broken && advance(*connection)) active = true;
    if (!connection->broken) continue;
    active = true;
    connections_.erase(connection->peer.worker);
    break_connection(*connection, ErrorCode::unavailable, "the connection broke: " + connection->why);
    stats_.update(connection->peer.worker, [](PeerStats& s) { ++s.peer_errors; });
    on_broken_(connection->peer, connection->why);
  }
  return active;
}

bool UcxSender::advance(Connection& connection) {
  if (connection.queue.empty()) return false;
  const std::shared_ptr<Operation> operation = connection.queue.front();
  const bool over = !operation->done;
  if (over || start_chunk(connection, operation)) {
    if (over || operation->all_given) connection.queue.pop_front();
    return true;
  }
  return false;
}

// Gives the next chunk of the frame to an endpoint with room. The first chunk of every frame goes to the first
// endpoint, whose order is the order of the frames.
bool UcxSender::start_chunk(Connection& connection, const std::shared_ptr<Operation>& operation) {
  std::size_t index = operation->started ? connection.next_endpoint : 0;
  const std::size_t choices = operation->started ? connection.endpoints.size() : 1;
  for (std::size_t tried = 0; connection.endpoints[index]->bytes_in_flight >= options_.window_bytes; ++tried) {
    if (tried + 1 >= choices) return false;
    index = (index + 1) % connection.endpoints.size();
  }
  connection.next_endpoint = (index + 1) % connection.endpoints.size();

  WireHeader& header = operation->header;
  const auto& slices = operation->frame.payload;
  if (!operation->started) {
    operation->started = true;
    pass_time();
    ++started_;
    operation->started_at = own_seconds_;
    header.sequence = connection.next_sequence++;
    if (connection.authenticator) header.auth = connection.authenticator->tag(header, slices);
  }
  auto chunk = std::make_unique<Chunk>();
  chunk->sender = this;
  chunk->operation = operation;
  chunk->endpoint = connection.endpoints[index];
  chunk->header = encode_wire_header(header);
  if (options_.key) mask_header_check(chunk->header, *options_.key);
  const std::byte* data = nullptr;
  if (operation->slice < slices.size()) {
    const auto rest = slices[operation->slice].bytes.subspan(operation->slice_offset);
    if (rest.size() >= kGatherBytes || operation->slice + 1 == slices.size()) {
      data = rest.data();
      chunk->bytes = std::min(rest.size(), options_.chunk_bytes);
      operation->slice_offset += chunk->bytes;
      if (chunk->bytes == rest.size()) {
        ++operation->slice;
        operation->slice_offset = 0;
      }
    } else {
      while (operation->slice < slices.size() && chunk->gathered.size() < kGatherBytes) {
        const auto part = slices[operation->slice].bytes.subspan(operation->slice_offset);
        const auto taken = part.first(std::min(part.size(), kGatherBytes - chunk->gathered.size()));
        chunk->gathered.insert(chunk->gathered.end(), taken.begin(), taken.end());
        operation->slice_offset += taken.size();
        if (taken.size() == part.size()) {
          ++operation->slice;
          operation->slice_offset = 0;
        }
      }
      data = chunk->gathered.data();
      chunk->bytes = chunk->gathered.size();
    }
  }
  header.chunk_offset += chunk->bytes;
  operation->all_given = operation->slice == slices.size();

  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = on_sent;
  param.user_data = chunk.get();
  ++operation->chunks;
  ++chunks_in_flight_;
  chunk->endpoint->bytes_in_flight += chunk->bytes;
  const ucs_status_ptr_t request = ucp_am_send_nbx(chunk->endpoint->handle, kFrameMessage, chunk->header.data(),
                                                   chunk->header.size(), data, chunk->bytes, &param);
  if (UCS_PTR_IS_PTR(request)) {
    static_cast<void>(chunk.release());  // on_sent takes it back
  } else {
    chunk_done(std::move(chunk), UCS_PTR_STATUS(request));
  }
  return true;
}

void UcxSender::on_sent(void* request, ucs_status_t status, void* argument) {
  std::unique_ptr<Chunk> chunk(static_cast<Chunk*>(argument));
  ucp_request_free(request);
  UcxSender* sender = chunk->sender;
  sender->chunk_done(std::move(chunk), status);
}

void UcxSender::chunk_done(std::unique_ptr<Chunk> chunk, ucs_status_t status) {
  --chunks_in_flight_;
  if (!chunk->operation) return;
  chunk->endpoint->bytes_in_flight -= chunk->bytes;
  const std::shared_ptr<Operation> operation = chunk->operation;
  --operation->chunks;
  if (status != UCS_OK) {
    if (const auto connection = operation->connection.lock(); connection && !connection->broken) {
      connection->broken = true;
      connection->why = ucs_status_string(status);
    }
  } else if (operation->all_given && operation->chunks == 0) {
    report(*operation, ok_status());
  }
  if (operation->chunks == 0 && std::exchange(operation->quarantined, false)) {
    stats_.update(operation->to, [&](PeerStats& s) { s.quarantined_bytes -= operation->header.frame.payload_bytes; });
    operation->frame.payload.clear();
  }
}

void UcxSender::fence(ViewNumber view) {
  fenced_ = std::max(fenced_.value_or(view), view);
  for (const auto& [worker, connection] : connections_) {
    std::vector<std::shared_ptr<Operation>> over;
    std::ranges::copy_if(connection->operations, std::back_inserter(over),
                         [&](const auto& operation) { return operation->header.frame.view <= view; });
    for (const auto& operation : over) report(*operation, Error(ErrorCode::cancelled, "the frame's view is over"));
  }
}

void UcxSender::stop_accepting() {
  accepting_ = false;
  for (const auto& [worker, connection] : connections_) {
    connection->queue.clear();
    std::vector<std::shared_ptr<Operation>> rest;
    std::ranges::copy_if(connection->operations, std::back_inserter(rest),
                         [](const auto& operation) { return !operation->all_given; });
    for (const auto& operation : rest) report(*operation, Error(ErrorCode::cancelled, "the transport is stopping"));
  }
}

void UcxSender::close_all() {
  auto connections = std::move(connections_);
  connections_.clear();
  for (const auto& [worker, connection] : connections) {
    break_connection(*connection, ErrorCode::cancelled, "the transport stopped");
  }
}

}  // namespace planaria
