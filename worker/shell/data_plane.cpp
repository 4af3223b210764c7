#include "worker/shell/data_plane.hpp"

#include <string>
#include <utility>

#include "worker/trainer/tile_values.hpp"

namespace planaria {

namespace {

constexpr std::uint16_t kDataFrame = 1;

}  // namespace

DataPlane::DataPlane(std::shared_ptr<Transport> transport, const StateMap& map, std::size_t boundary_elements,
                     std::function<void(WorkerEvent)> sink)
    : transport_(std::move(transport)), map_(map), boundary_elements_(boundary_elements), sink_(std::move(sink)) {}

Status DataPlane::start() {
  return transport_->start({.frame = [this](InboundFrame frame) { take_frame(std::move(frame)); },
                            .event = [this](const TransportEvent& event) { take_event(event); }});
}

void DataPlane::enter(const worker_action::EnterView& action, WorkerId self) {
  std::map<WorkerId, Incarnation> wanted;
  std::vector<WorkerId> gone;
  std::vector<std::pair<PeerId, ByteVector>> missing;
  for (const Member& member : action.members) {
    if (member.worker != self) wanted[member.worker] = member.incarnation;
  }
  {
    const std::scoped_lock lock(mutex_);
    for (const auto& [worker, incarnation] : connected_) {
      if (!wanted.contains(worker)) gone.push_back(worker);
    }
    for (const Member& member : action.members) {
      const auto known = connected_.find(member.worker);
      const bool stands = known != connected_.end() && known->second == member.incarnation;
      if (member.worker != self && !stands)
        missing.emplace_back(PeerId{member.worker, member.incarnation}, member.address);
    }
    connected_ = std::move(wanted);
    reported_.clear();
  }
  for (const WorkerId worker : gone) transport_->disconnect(worker);
  for (const auto& [peer, address] : missing) {
    if (const Status made = transport_->connect(peer, address); !made) unreachable(peer.worker, made.error().message());
  }
  transport_->set_view(action.view);
}

void DataPlane::fence(const worker_action::FenceView& action) {
  transport_->fence(action.view);
  for (const WorkerId worker : action.excluded) {
    {
      const std::scoped_lock lock(mutex_);
      connected_.erase(worker);
    }
    transport_->disconnect(worker);
  }
}

void DataPlane::send(WorkerId to, ViewNumber view, std::vector<ConstSlice> payload) {
  OutgoingFrame frame{.view = view, .kind = kDataFrame, .payload = std::move(payload)};
  transport_->send(to, std::move(frame), [this, to](const Status& sent) {
    if (!sent && sent.error().code() == ErrorCode::unavailable) unreachable(to, sent.error().message());
  });
}

std::map<WorkerId, PeerStats> DataPlane::stats() const {
  std::map<WorkerId, Incarnation> peers;
  {
    const std::scoped_lock lock(mutex_);
    peers = connected_;
  }
  std::map<WorkerId, PeerStats> stats;
  for (const auto& [worker, incarnation] : peers) stats[worker] = transport_->stats(worker);
  return stats;
}

void DataPlane::take_frame(InboundFrame frame) {
  const FrameHeader header = frame.header;
  auto read = read_data_frame(map_, boundary_elements_, std::move(frame.payload));
  if (header.kind != kDataFrame || !read) {
    sink_(worker_event::CorruptData{header.from.worker, header.view});
    return;
  }
  sink_(worker_event::Data{header.from.worker, header.from.incarnation, header.view, std::move(read->meta),
                           std::move(read->payload)});
}

void DataPlane::take_event(const TransportEvent& event) {
  switch (event.kind) {
    case TransportEvent::Kind::peer_error: {
      const std::scoped_lock lock(mutex_);
      const auto known = connected_.find(event.peer.worker);
      if (known == connected_.end() || known->second != event.peer.incarnation) return;
      connected_.erase(known);
    }
      unreachable(event.peer.worker, event.detail);
      return;
    case TransportEvent::Kind::corrupt:
      if (event.header) sink_(worker_event::CorruptData{event.peer.worker, event.header->view});
      return;
    case TransportEvent::Kind::overflow:
      unreachable(event.peer.worker, "its frames came faster than they could be taken: " + event.detail);
      return;
  }
}

void DataPlane::unreachable(WorkerId peer, const std::string& detail) {
  {
    const std::scoped_lock lock(mutex_);
    if (!reported_.insert(peer).second) return;
  }
  sink_(worker_event::PeerUnreachable{peer, detail});
}

}  // namespace planaria
