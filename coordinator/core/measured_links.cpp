#include "coordinator/core/measured_links.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace planaria {
namespace {

constexpr double kMostBytesPerSecond = 1e13;
constexpr double kMostLatency = 100;
// A pair within this factor of its class is like it: measuring isn't exact.
constexpr double kAlike = 1.6;

struct Pair {
  const WorkerProfile* a = nullptr;
  const WorkerProfile* b = nullptr;
  double bytes_per_s = 0;  // of the slower direction
  double latency_s = 0;    // of the slower direction
};

enum class Place : std::uint8_t { host, nic, zone, far };
using LinkClass = std::pair<Place, std::string>;  // with the network's name

LinkClass class_of(const Pair& pair) {
  if (pair.a->host == pair.b->host) return {Place::host, ""};
  if (pair.a->zone != pair.b->zone) return {Place::far, ""};
  if (!pair.a->nic.empty() && pair.a->nic == pair.b->nic) return {Place::nic, pair.a->nic};
  return {Place::zone, ""};
}

// What both ends say, in the order of their ids.
std::vector<Pair> pairs_of(const ClusterProfile& cluster, const std::map<WorkerId, LinkTable>& measured) {
  const auto worker = [&](WorkerId id) -> const WorkerProfile* {
    const auto found = std::ranges::lower_bound(cluster.workers, id, {}, &WorkerProfile::worker);
    return found != cluster.workers.end() && found->worker == id ? &*found : nullptr;
  };
  std::map<std::pair<WorkerId, WorkerId>, Pair> pairs;
  for (const auto& [from, table] : measured) {
    for (const auto& [to, link] : table) {
      const auto key = std::minmax(from, to);
      Pair pair{worker(key.first), worker(key.second)};
      if (pair.a == nullptr || pair.b == nullptr || pair.a == pair.b) continue;
      Pair& known = pairs.try_emplace(key, pair).first->second;
      if (link.bytes_per_second > 0) {
        known.bytes_per_s =
            known.bytes_per_s > 0 ? std::min(known.bytes_per_s, link.bytes_per_second) : link.bytes_per_second;
      }
      known.latency_s = std::max(known.latency_s, link.latency_seconds);
    }
  }
  std::vector<Pair> all;
  for (const auto& [key, pair] : pairs) all.push_back(pair);
  return all;
}

LinkProfile& profile_of(ClusterProfile& cluster, const LinkClass& of) {
  switch (of.first) {
    case Place::host:
      return cluster.same_host;
    case Place::far:
      return cluster.between_zones;
    case Place::nic: {
      const auto known = std::ranges::find(cluster.nics, of.second, &NicProfile::name);
      if (known != cluster.nics.end()) return known->link;
      return cluster.nics.emplace_back(NicProfile{of.second, cluster.same_zone}).link;
    }
    case Place::zone:
      break;
  }
  return cluster.same_zone;
}

double median(std::vector<double> values, double otherwise) {
  if (values.empty()) return otherwise;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

bool alike(double value, double usual) {
  return value == 0 || (value <= usual * kAlike && value >= usual / kAlike);
}

}  // namespace

void note_links(LinkTable& table, std::span<const LinkMeasure> told) {
  const auto in = [](double value, double most) { return std::isfinite(value) && value > 0 && value <= most; };
  for (const LinkMeasure& link : told) {
    const bool rate = in(link.bytes_per_second, kMostBytesPerSecond);
    const bool latency = in(link.latency_seconds, kMostLatency);
    if (!rate && !latency) continue;
    LinkMeasure& known = table.try_emplace(link.to, LinkMeasure{link.to}).first->second;
    if (rate) known.bytes_per_second = link.bytes_per_second;
    if (latency) known.latency_seconds = link.latency_seconds;
  }
}

void apply_links(ClusterProfile& cluster, const std::map<WorkerId, LinkTable>& measured) {
  const std::vector<Pair> pairs = pairs_of(cluster, measured);
  std::map<LinkClass, std::pair<std::vector<double>, std::vector<double>>> values;
  for (const Pair& pair : pairs) {
    auto& [rates, latencies] = values[class_of(pair)];
    if (pair.bytes_per_s > 0) rates.push_back(pair.bytes_per_s);
    if (pair.latency_s > 0) latencies.push_back(pair.latency_s);
  }
  for (auto& [of, measures] : values) {
    LinkProfile& link = profile_of(cluster, of);
    link.bytes_per_s = median(std::move(measures.first), link.bytes_per_s);
    link.latency_s = median(std::move(measures.second), link.latency_s);
  }
  for (const Pair& pair : pairs) {
    const LinkProfile usual = profile_of(cluster, class_of(pair));
    if (alike(pair.bytes_per_s, usual.bytes_per_s) && alike(pair.latency_s, usual.latency_s)) continue;
    cluster.overrides.push_back({pair.a->worker,
                                 pair.b->worker,
                                 {pair.bytes_per_s > 0 ? pair.bytes_per_s : usual.bytes_per_s,
                                  pair.latency_s > 0 ? pair.latency_s : usual.latency_s}});
  }
}

}  // namespace planaria
