// Transports inside one process and one thread, for tests and simulations: every call is queued, and nothing happens
// until pump() is called. The order of everything follows from the order of calls alone, so a run repeats exactly.
//
// Thread contract: one thread for the network and all its transports. The network must outlive its transports.
// Callbacks run inside pump() and stop(), and may call any transport.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>

#include "common/transport/inbox.hpp"
#include "common/transport/transport.hpp"

namespace planaria {

class InProcessTransport;

class InProcessNetwork {
 public:
  explicit InProcessNetwork(std::uint64_t job = 0) : job_(job) {}
  InProcessNetwork(const InProcessNetwork&) = delete;
  InProcessNetwork& operator=(const InProcessNetwork&) = delete;

  // A new life of the worker. An earlier one's address leads nowhere from now on.
  std::shared_ptr<Transport> create(PeerId self, WaitingBounds bounds = {});

  // The worker's process dies: frames to and from it that are under way are lost, who was connected gets peer_error.
  void kill(WorkerId worker);

  // Does the next thing: a call takes effect or a frame arrives. False: nothing was left to do.
  bool pump_one();
  // Until nothing is left to do. Returns how much there was.
  std::size_t pump();

 private:
  friend class InProcessTransport;

  [[nodiscard]] InProcessTransport* alive(PeerId peer) const;

  const std::uint64_t job_;
  std::deque<std::function<void()>> actions_;
  std::map<WorkerId, std::pair<PeerId, InProcessTransport*>> transports_;  // those alive
};

}  // namespace planaria
