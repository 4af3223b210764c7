#include "common/transport/ucx_receiver.hpp"

#include <algorithm>
#include <cstring>

#include "common/transport/ucx_sender.hpp"

namespace planaria {
namespace {

// Peers that may send without being known; more are refused.
constexpr std::size_t kMaxSessions = 4096;
// Chunks that came before their frame's first chunk, per session. A sender's windows keep them to a few.
constexpr std::size_t kMaxEarlyChunks = 1024;

}  // namespace

// A frame of which some chunks are here.
struct UcxReceiver::Partial {
  WireHeader header;
  std::shared_ptr<Inbox::Arrival> arrival;
  std::weak_ptr<Session> session;
  std::uint64_t bytes_left = 0;
  std::size_t operations = 0;  // rendezvous transfers under way
  bool broken = false;
};

// A chunk that came before its frame's first one: `descriptor` is UCX's and moves later, or `copy` holds the bytes.
struct UcxReceiver::Early {
  WireHeader header;
  void* descriptor = nullptr;
  std::vector<std::byte> copy;
  std::size_t bytes = 0;
};

struct UcxReceiver::Session {
  Incarnation incarnation;
  std::uint64_t number = 0;
  std::uint64_t next_sequence = 0;
  std::map<std::uint64_t, std::shared_ptr<Partial>> partials;
  std::multimap<std::uint64_t, Early> early;
  std::optional<FrameAuthenticator> authenticator;
};

struct UcxReceiver::Fetch {
  UcxReceiver* receiver = nullptr;
  std::shared_ptr<Partial> partial;
  std::size_t bytes = 0;
};

UcxReceiver::UcxReceiver(const UcxOptions& options, UcxWorker& worker, StatsBook& stats, Inbox& inbox)
    : options_(options), worker_(worker), stats_(stats), inbox_(inbox) {}

UcxReceiver::~UcxReceiver() = default;

Status UcxReceiver::listen() {
  return worker_.on_message(kFrameMessage, on_message, this);
}

ucs_status_t UcxReceiver::on_message(void* argument, const void* header, std::size_t header_bytes, void* data,
                                     std::size_t bytes, const ucp_am_recv_param_t* param) {
  auto* receiver = static_cast<UcxReceiver*>(argument);
  const auto parsed = receiver->parse({static_cast<const std::byte*>(header), header_bytes});
  if (!parsed) {
    receiver->count_foreign();
    return UCS_OK;
  }
  return receiver->receive(*parsed, data, bytes, (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0);
}

Result<WireHeader> UcxReceiver::parse(std::span<const std::byte> bytes) const {
  if (!options_.key || bytes.size() != kWireHeaderBytes) return decode_wire_header(bytes);
  WireHeaderBytes unmasked;
  std::ranges::copy(bytes, unmasked.begin());
  mask_header_check(unmasked, *options_.key);
  return decode_wire_header(unmasked);
}

ucs_status_t UcxReceiver::receive(const WireHeader& header, void* data, std::size_t bytes, bool rendezvous) {
  const std::uint64_t payload = header.frame.payload_bytes;
  const bool fits = header.chunk_offset <= payload && bytes <= payload - header.chunk_offset;
  const bool advances = bytes != 0 || payload == 0;
  if (header.frame.job != options_.job || header.to != options_.self || !fits || !advances) {
    count_foreign();
    return UCS_OK;
  }
  if (header.keyed != options_.key.has_value()) {
    stats_.update(header.frame.from.worker, [](PeerStats& s) { ++s.unauthenticated; });
    return UCS_OK;
  }
  Session* session = session_of(header);
  return session == nullptr ? UCS_OK : accept(*session, header, data, bytes, rendezvous);
}

// Null: the chunk belongs to a connection that has been replaced.
UcxReceiver::Session* UcxReceiver::session_of(const WireHeader& header) {
  const PeerId from = header.frame.from;
  const auto found = sessions_.find(from.worker);
  if (found == sessions_.end() && sessions_.size() >= kMaxSessions) {
    count_foreign();
    return nullptr;
  }
  if (found != sessions_.end()) {
    Session& known = *found->second;
    if (known.incarnation == from.incarnation && known.number == header.session) return &known;
    if (std::pair(from.incarnation, header.session) < std::pair(known.incarnation, known.number)) {
      if (header.chunk_offset == 0) stats_.update(from.worker, [](PeerStats& s) { ++s.refused_stale; });
      return nullptr;
    }
    end_session(known);
  }
  auto session = std::make_shared<Session>();
  session->incarnation = from.incarnation;
  session->number = header.session;
  if (options_.key) session->authenticator.emplace(*options_.key, header);
  return (sessions_[from.worker] = std::move(session)).get();
}

ucs_status_t UcxReceiver::accept(Session& session, const WireHeader& header, void* data, std::size_t bytes,
                                 bool rendezvous) {
  const auto found = session.partials.find(header.sequence);
  if (header.chunk_offset != 0) {
    if (found != session.partials.end()) {
      const std::shared_ptr<Partial> partial = found->second;  // its place in the map goes with its last chunk
      WireHeader first = header;
      first.chunk_offset = 0;
      if (first != partial->header) {  // its bounds were checked against another frame's
        count_foreign();
        return UCS_OK;
      }
      return place(session, partial, header.chunk_offset, data, bytes, rendezvous);
    }
    if (header.sequence < session.next_sequence) return UCS_OK;  // the frame was refused or is over
    return park(session, header, data, bytes, rendezvous);
  }
  if (header.sequence < session.next_sequence) {
    stats_.update(header.frame.from.worker, [](PeerStats& s) { ++s.duplicates; });
    return UCS_OK;
  }
  if (header.sequence > session.next_sequence) return park(session, header, data, bytes, rendezvous);

  ++session.next_sequence;
  ucs_status_t answer = UCS_OK;
  if (auto arrival = inbox_.admit(header.frame)) {
    auto partial = std::make_shared<Partial>();
    partial->header = header;
    partial->arrival = std::move(arrival);
    partial->session = sessions_[header.frame.from.worker];
    partial->bytes_left = header.frame.payload_bytes;
    session.partials[header.sequence] = partial;
    answer = place(session, partial, 0, data, bytes, rendezvous);
  }
  unpark(session);
  return answer;
}

ucs_status_t UcxReceiver::place(Session&, const std::shared_ptr<Partial>& partial, std::uint64_t offset, void* data,
                                std::size_t bytes, bool rendezvous) {
  if (partial->broken || partial->arrival->ended) return UCS_OK;
  std::byte* target = partial->arrival->target.bytes.data() + offset;
  if (!rendezvous) {
    if (bytes != 0) std::memcpy(target, data, bytes);
    settle(partial, bytes, UCS_OK);
    return UCS_OK;
  }
  auto fetch = std::make_unique<Fetch>(Fetch{this, partial, bytes});
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  param.cb.recv_am = on_fetched;
  param.user_data = fetch.get();
  const ucs_status_ptr_t request = ucp_am_recv_data_nbx(worker_.handle(), data, target, bytes, &param);
  if (UCS_PTR_IS_PTR(request)) {
    ++partial->operations;
    ++operations_;
    static_cast<void>(fetch.release());  // on_fetched takes it back
    return UCS_INPROGRESS;
  }
  settle(partial, bytes, UCS_PTR_STATUS(request));
  return UCS_OK;
}

void UcxReceiver::on_fetched(void* request, ucs_status_t status, std::size_t, void* argument) {
  const std::unique_ptr<Fetch> fetch(static_cast<Fetch*>(argument));
  ucp_request_free(request);
  --fetch->receiver->operations_;
  --fetch->partial->operations;
  fetch->receiver->settle(fetch->partial, fetch->bytes, status);
}

// Chunks may come before the first one only over other endpoints; this is rare, and bounded.
ucs_status_t UcxReceiver::park(Session& session, const WireHeader& header, void* data, std::size_t bytes,
                               bool rendezvous) {
  if (session.early.size() >= kMaxEarlyChunks) {
    count_foreign();
    return UCS_OK;
  }
  Early early{header, nullptr, {}, bytes};
  if (rendezvous) {
    early.descriptor = data;
  } else if (bytes != 0) {
    const auto* first = static_cast<const std::byte*>(data);
    early.copy.assign(first, first + bytes);
  }
  session.early.emplace(header.sequence, std::move(early));
  return rendezvous ? UCS_INPROGRESS : UCS_OK;
}

void UcxReceiver::release(Early& early) {
  if (early.descriptor != nullptr) ucp_am_data_release(worker_.handle(), std::exchange(early.descriptor, nullptr));
}

// What waited for the frame that was just admitted, and for its place in the order.
void UcxReceiver::unpark(Session& session) {
  const auto take = [&](auto at) {
    Early early = std::move(at->second);
    session.early.erase(at);
    const bool rendezvous = early.descriptor != nullptr;
    void* data = rendezvous ? early.descriptor : early.copy.data();
    if (accept(session, early.header, data, early.bytes, rendezvous) != UCS_INPROGRESS) release(early);
  };
  for (auto at = session.early.begin(); at != session.early.end();) {
    const bool due = at->first < session.next_sequence ||
                     (at->first == session.next_sequence && at->second.header.chunk_offset == 0);
    if (!due) {
      ++at;
      continue;
    }
    take(at);  // may itself unpark: begin again
    at = session.early.begin();
  }
}

void UcxReceiver::settle(const std::shared_ptr<Partial>& partial, std::size_t bytes, ucs_status_t status) {
  if (status != UCS_OK) {
    partial->broken = true;
    inbox_.abandon(partial->arrival);
  } else {
    // Overlapping chunks of a lying sender may end the frame early; the hash then finds the hole.
    partial->bytes_left -= std::min<std::uint64_t>(bytes, partial->bytes_left);
  }
  if (partial->operations == 0 && (partial->broken || partial->arrival->ended || partial->bytes_left == 0)) {
    end_partial(partial);
  }
}

void UcxReceiver::end_partial(const std::shared_ptr<Partial>& partial) {
  const auto session = partial->session.lock();
  const WireHeader& header = partial->header;
  Inbox::Verdict verdict = Inbox::Verdict::whole;
  if (partial->broken || partial->arrival->ended) {
    verdict = Inbox::Verdict::broken;
  } else if (options_.key && (!session || !session->authenticator->verify(header, partial->arrival->target.bytes))) {
    verdict = Inbox::Verdict::unauthenticated;
  } else if (hash_bytes(partial->arrival->target.bytes) != header.frame.payload_hash) {
    verdict = Inbox::Verdict::corrupt;
  }
  if (session) {
    const auto found = session->partials.find(header.sequence);
    if (found != session->partials.end() && found->second == partial) session->partials.erase(found);
  }
  inbox_.finish(partial->arrival, verdict);
}

void UcxReceiver::end_session(Session& session) {
  for (auto& [sequence, early] : session.early) release(early);
  session.early.clear();
  const auto partials = std::move(session.partials);
  session.partials.clear();
  for (const auto& [sequence, partial] : partials) {
    partial->broken = true;
    inbox_.abandon(partial->arrival);
    if (partial->operations == 0) end_partial(partial);
  }
}

void UcxReceiver::abandon(WorkerId peer) {
  const auto found = sessions_.find(peer);
  if (found != sessions_.end()) end_session(*found->second);
}

void UcxReceiver::abandon_all() {
  for (const auto& [peer, session] : sessions_) end_session(*session);
}

void UcxReceiver::sweep() {
  for (const auto& [peer, session] : sessions_) {
    std::vector<std::shared_ptr<Partial>> over;
    for (const auto& [sequence, partial] : session->partials) {
      if (partial->arrival->ended && partial->operations == 0) over.push_back(partial);
    }
    for (const auto& partial : over) end_partial(partial);
  }
}

}  // namespace planaria
