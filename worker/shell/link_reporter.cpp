#include "worker/shell/link_reporter.hpp"

#include <algorithm>

namespace planaria {

namespace {

constexpr double kChange = 0.2;
// A busy peer answers late: the quickest answer tells, and is forgotten slowly.
constexpr double kForgotten = 1.05;

bool differs(double now, double told) {
  return now > 0 && (told == 0 || now > told * (1 + kChange) || now < told / (1 + kChange));
}

}  // namespace

std::optional<WorkerId> LinkReporter::next_probe(const std::map<WorkerId, PeerStats>& peers) {
  const auto used = [](const auto& peer) { return peer.second.frames_out > 0; };
  auto next = std::find_if(probed_ ? peers.upper_bound(*probed_) : peers.begin(), peers.end(), used);
  if (next == peers.end()) next = std::find_if(peers.begin(), peers.end(), used);
  if (next == peers.end()) return std::nullopt;
  return probed_ = next->first;
}

std::vector<LinkMeasure> LinkReporter::news(const std::map<WorkerId, PeerStats>& peers) {
  const auto gone = [&](const auto& entry) { return !peers.contains(entry.first); };
  std::erase_if(round_trips_, gone);
  std::erase_if(told_, gone);
  std::vector<LinkMeasure> changed;
  for (const auto& [worker, stats] : peers) {
    RoundTrip& trip = round_trips_[worker];
    if (stats.last_rtt != trip.last) {
      trip.last = stats.last_rtt;
      const double now = to_seconds(trip.last);
      trip.usual_s = trip.usual_s == 0 ? now : std::min(now, trip.usual_s * kForgotten);
    }
    const LinkMeasure measure{worker, stats.bytes_per_second, trip.usual_s / 2};
    LinkMeasure& told = told_.try_emplace(worker, LinkMeasure{worker}).first->second;
    if (!differs(measure.bytes_per_second, told.bytes_per_second) &&
        !differs(measure.latency_seconds, told.latency_seconds)) {
      continue;
    }
    if (changed.size() == kMostTold) break;
    told = measure;
    changed.push_back(measure);
  }
  return changed;
}

}  // namespace planaria
