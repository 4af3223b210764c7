#include "coordinator/core/measured_links.hpp"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "common/median.hpp"

namespace planaria {
namespace {

constexpr double kLeastBytesPerSecond = 1e3;
constexpr double kMostBytesPerSecond = 1e13;
constexpr double kLeastLatency = 1e-9;
constexpr double kMostLatency = 100;
// A pair within this factor of its class is like it: measuring isn't exact.
constexpr double kAlike = 1.6;
constexpr std::size_t kMostOverrides = 2000;
// Of one worker: a class needs no more, and all workers' are gone through when members wait for a layout.
constexpr std::size_t kMostKnown = 64;
constexpr Duration kForgotten = std::chrono::minutes(5);  // they are told more often

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
  std::map<std::pair<WorkerId, WorkerId>, Pair> pairs;
  for (const auto& [from, table] : measured) {
    for (const auto& [to, link] : table) {
      const auto key = std::minmax(from, to);
      Pair pair{find_worker(cluster, key.first), find_worker(cluster, key.second)};
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

// By what factor they differ; 1 where it wasn't measured.
double far(double value, double usual) {
  return value == 0 ? 1 : std::max(value / usual, usual / value);
}

double far(const LinkProfile& link, const LinkProfile& usual) {
  return std::max(far(link.bytes_per_s, usual.bytes_per_s), far(link.latency_s, usual.latency_s));
}

}  // namespace

void note_links(LinkTable& table, std::span<const LinkMeasure> told, Instant now) {
  std::erase_if(table, [&](const auto& entry) { return now - entry.second.told_at > kForgotten; });
  const auto within = [](double value, double least, double most) { return value >= least && value <= most; };
  for (const LinkMeasure& link : told.first(std::min(told.size(), Heartbeat::kMostLinks))) {
    const bool rate = within(link.bytes_per_second, kLeastBytesPerSecond, kMostBytesPerSecond);
    const bool latency = within(link.latency_seconds, kLeastLatency, kMostLatency);
    if (rate || latency) {
      if (table.size() >= kMostKnown && !table.contains(link.to)) continue;
      table[link.to] = {rate ? link.bytes_per_second : 0, latency ? link.latency_seconds : 0, now};
    } else {
      table.erase(link.to);
    }
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
    if (!measures.first.empty()) link.bytes_per_s = median(measures.first);
    if (!measures.second.empty()) link.latency_s = median(measures.second);
  }
  using FarPair = std::pair<double, LinkOverride>;
  std::vector<FarPair> far_pairs;
  for (const Pair& pair : pairs) {
    const LinkProfile usual = profile_of(cluster, class_of(pair));
    const auto value = [](double measured, double of_class) {
      return far(measured, of_class) > kAlike ? measured : of_class;
    };
    const LinkProfile own{value(pair.bytes_per_s, usual.bytes_per_s), value(pair.latency_s, usual.latency_s)};
    const double how_far = far(own, usual);
    if (how_far > kAlike) far_pairs.push_back({how_far, {pair.a->worker, pair.b->worker, own}});
  }
  if (far_pairs.size() > kMostOverrides) {
    std::ranges::stable_sort(far_pairs, std::greater<>(), &FarPair::first);
    far_pairs.resize(kMostOverrides);
  }
  for (const FarPair& pair : far_pairs) cluster.overrides.push_back(pair.second);
}

std::set<WorkerId> workers_with_other_links(const ClusterProfile& now, const ClusterProfile& then) {
  const auto nic = [](const ClusterProfile& cluster, const std::string& name) {
    const auto found = std::ranges::find(cluster.nics, name, &NicProfile::name);
    return found == cluster.nics.end() ? cluster.same_zone : found->link;
  };
  bool class_differs = far(now.same_host, then.same_host) > kAlike || far(now.same_zone, then.same_zone) > kAlike ||
                       far(now.between_zones, then.between_zones) > kAlike;
  for (const NicProfile& known : now.nics) {
    class_differs = class_differs || far(known.link, nic(then, known.name)) > kAlike;
  }
  std::set<WorkerId> workers;
  if (class_differs) {
    for (const WorkerProfile& worker : now.workers) workers.insert(worker.worker);
    return workers;
  }
  std::map<std::pair<WorkerId, WorkerId>, std::pair<const LinkProfile*, const LinkProfile*>> pairs;
  for (const LinkOverride& pair : now.overrides) pairs[{pair.from, pair.to}].first = &pair.link;
  for (const LinkOverride& pair : then.overrides) pairs[{pair.from, pair.to}].second = &pair.link;
  for (const auto& [ends, links] : pairs) {
    const auto& [is, was] = links;
    if (is != nullptr && was != nullptr && far(*is, *was) <= kAlike) continue;
    workers.insert({ends.first, ends.second});
  }
  return workers;
}

}  // namespace planaria
