// What a worker tells of its links: bandwidths that its transfers reached and latencies of its round trips.
//
// Only peers that it sends to are measured, one round trip at a time. What changed by a fifth is told at once, the rest
// now and then, for a message may be lost; a rate that no transfer has confirmed for long is forgotten.
//
// Thread contract: one owner.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <vector>

#include "common/transport/transport.hpp"
#include "proto/control.hpp"

namespace planaria {

class LinkReporter {
 public:
  // Whose round trip to measure now: each that something was sent to, in turn.
  [[nodiscard]] std::optional<WorkerId> next_probe(const std::map<WorkerId, PeerStats>& peers);
  // What the coordinator doesn't know yet, at most Heartbeat::kMostLinks.
  [[nodiscard]] std::vector<LinkMeasure> news(const std::map<WorkerId, PeerStats>& peers, Instant now);
  // The coordinator knows nothing any more.
  void tell_all_again();

 private:
  struct Link {
    std::uint64_t rated_frames = 0;
    Instant rated_at{};
    Duration last_rtt{0};
    std::uint32_t round_trips = 0;
    double usual_rtt_s = 0;
    LinkMeasure told;
    std::optional<Instant> told_at;
  };

  void measure(Link& link, const PeerStats& stats, Instant now);

  std::optional<WorkerId> probed_, looked_at_;
  std::map<WorkerId, Link> links_;
};

}  // namespace planaria
