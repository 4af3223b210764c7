// A worker's side of the data plane: views, connections and frames of a Transport, as WorkerEvents and WorkerActions.
//
// One DataPlane serves one incarnation. Connections to members are kept from view to view and made anew where they
// broke. What arrives is checked for shape (worker/trainer/tile_values.hpp) before the core sees it.
//
// Thread contract: any thread may call; the sink runs on the transport's thread and must not block.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "common/transport/transport.hpp"
#include "proto/state_map.hpp"
#include "worker/core/events.hpp"

namespace planaria {

class DataPlane {
 public:
  // `map` outlives this.
  DataPlane(std::shared_ptr<Transport> transport, const StateMap& map, std::size_t boundary_elements,
            std::function<void(WorkerEvent)> sink);
  ~DataPlane() { stop(); }
  DataPlane(const DataPlane&) = delete;
  DataPlane& operator=(const DataPlane&) = delete;

  [[nodiscard]] Status start();
  [[nodiscard]] ByteVector address() const { return transport_->address(); }

  // `self` is not connected to.
  void enter(const worker_action::EnterView& action, WorkerId self);
  void fence(const worker_action::FenceView& action);
  void send(WorkerId to, ViewNumber view, std::vector<ConstSlice> payload);

  // Of the members of the view.
  [[nodiscard]] std::map<WorkerId, PeerStats> stats() const;
  // Measures the round trip.
  void probe(WorkerId peer) { transport_->probe(peer); }

  // No event comes after it returned. Must not be called from the sink.
  void stop() { transport_->stop(); }

 private:
  void take_frame(InboundFrame frame);
  void take_event(const TransportEvent& event);
  void unreachable(WorkerId peer, const std::string& detail);

  const std::shared_ptr<Transport> transport_;
  const StateMap& map_;
  const std::size_t boundary_elements_;
  const std::function<void(WorkerEvent)> sink_;

  mutable std::mutex mutex_;
  std::map<WorkerId, Incarnation> connected_;
  std::set<WorkerId> reported_;  // as unreachable in this view
};

}  // namespace planaria
