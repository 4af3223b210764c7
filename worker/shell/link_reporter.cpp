#include "worker/shell/link_reporter.hpp"

#include <algorithm>

namespace planaria {

namespace {

constexpr double kChange = 0.2;
// A busy peer answers late: the quickest answer tells, and is forgotten slowly.
constexpr double kForgotten = 1.05;
// The first answer may have waited behind a large frame.
constexpr std::uint32_t kFirstRoundTrips = 2;
constexpr Duration kRateLasts = std::chrono::minutes(5);
constexpr Duration kToldAgain = std::chrono::minutes(1);

// Both may be 0: not measured.
bool differs(double now, double told) {
  return now > told * (1 + kChange) || now < told / (1 + kChange);
}

}  // namespace

std::optional<WorkerId> LinkReporter::next_probe(const std::map<WorkerId, PeerStats>& peers) {
  const auto used = [](const auto& peer) { return peer.second.frames_out > 0; };
  auto next = std::find_if(probed_ ? peers.upper_bound(*probed_) : peers.begin(), peers.end(), used);
  if (next == peers.end()) next = std::find_if(peers.begin(), peers.end(), used);
  if (next == peers.end()) return std::nullopt;
  return probed_ = next->first;
}

void LinkReporter::measure(Link& link, const PeerStats& stats, Instant now) {
  if (stats.rated_frames != link.rated_frames) {
    link.rated_frames = stats.rated_frames;
    link.rated_at = now;
  }
  if (stats.last_rtt == link.last_rtt) return;
  link.last_rtt = stats.last_rtt;
  ++link.round_trips;
  const double rtt = to_seconds(link.last_rtt);
  link.usual_rtt_s = link.usual_rtt_s == 0 ? rtt : std::min(rtt, link.usual_rtt_s * kForgotten);
}

std::vector<LinkMeasure> LinkReporter::news(const std::map<WorkerId, PeerStats>& peers, Instant now) {
  std::erase_if(links_, [&](const auto& entry) { return !peers.contains(entry.first); });
  for (const auto& [worker, stats] : peers) measure(links_[worker], stats, now);
  std::vector<LinkMeasure> changed;
  auto at = looked_at_ ? links_.upper_bound(*looked_at_) : links_.begin();
  for (std::size_t looked = 0; looked < links_.size() && changed.size() < Heartbeat::kMostLinks; ++looked, ++at) {
    if (at == links_.end()) at = links_.begin();
    auto& [worker, link] = *at;
    looked_at_ = worker;
    const bool rated = link.rated_frames > 0 && now - link.rated_at < kRateLasts;
    const LinkMeasure measure{worker, rated ? peers.at(worker).bytes_per_second : 0,
                              link.round_trips >= kFirstRoundTrips ? link.usual_rtt_s / 2 : 0};
    const bool news = differs(measure.bytes_per_second, link.told.bytes_per_second) ||
                      differs(measure.latency_seconds, link.told.latency_seconds);
    const bool due = link.told_at && now - *link.told_at >= kToldAgain;
    if (!news && !due) continue;
    link.told = measure;
    link.told_at = now;
    changed.push_back(measure);
  }
  return changed;
}

void LinkReporter::tell_all_again() {
  for (auto& [worker, link] : links_) {
    link.told = {};
    link.told_at.reset();
  }
}

}  // namespace planaria
