// What a worker tells of its links: bandwidths that its transfers reached and latencies of its round trips.
//
// Only peers that it sends to are measured, one round trip at a time; only what changed by a fifth is told again.
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
  static constexpr std::size_t kMostTold = 16;  // at once

  // Whose round trip to measure now: each that something was sent to, in turn.
  [[nodiscard]] std::optional<WorkerId> next_probe(const std::map<WorkerId, PeerStats>& peers);
  // What the coordinator doesn't know yet.
  [[nodiscard]] std::vector<LinkMeasure> news(const std::map<WorkerId, PeerStats>& peers);
  // The coordinator knows nothing any more.
  void tell_all_again() { told_.clear(); }

 private:
  struct RoundTrip {
    Duration last{0};
    double usual_s = 0;
  };

  std::optional<WorkerId> probed_;
  std::map<WorkerId, RoundTrip> round_trips_;
  std::map<WorkerId, LinkMeasure> told_;
};

}  // namespace planaria
