#include "coordinator/core/measured_links.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace planaria {
namespace {

using namespace std::chrono_literals;

// Two hosts of two workers each in zone a, one host in zone b.
ClusterProfile cluster(const char* nic = "") {
  ClusterProfile profile;
  const char* hosts[] = {"h0", "h0", "h1", "h1", "h2"};
  for (std::uint32_t w = 0; w < 5; ++w) {
    WorkerProfile worker{
        .worker = WorkerId(w), .memory_bytes = 1, .host = hosts[w], .zone = w < 4 ? "a" : "b", .nic = nic};
    profile.workers.push_back(worker);
  }
  return profile;
}

LinkMeasure link(std::uint32_t to, double rate, double latency = 0) {
  return {WorkerId(to), rate, latency};
}

std::map<WorkerId, LinkTable> measured(std::initializer_list<std::pair<std::uint32_t, LinkMeasure>> links) {
  std::map<WorkerId, LinkTable> tables;
  for (const auto& [from, measure] : links) note_links(tables[WorkerId(from)], std::span(&measure, 1), Instant{});
  return tables;
}

TEST(MeasuredLinks, WhatNobodyMeasuredStays) {
  ClusterProfile profile = cluster();
  const ClusterProfile before = profile;
  apply_links(profile, {});
  EXPECT_EQ(profile.same_zone.bytes_per_s, before.same_zone.bytes_per_s);
  EXPECT_TRUE(profile.overrides.empty() && profile.nics.empty());
}

TEST(MeasuredLinks, AClassIsAsTheMedianOfItsPairsAndASlowPairHasItsOwn) {
  ClusterProfile profile = cluster();
  apply_links(profile, measured({{0, link(2, 1e9, 1e-3)},
                                 {0, link(3, 1.1e9, 1e-3)},
                                 {1, link(2, 1e8)},
                                 {0, link(1, 7e9)},
                                 {4, link(0, 2e7, 0.05)}}));
  EXPECT_EQ(profile.same_host.bytes_per_s, 7e9);
  EXPECT_EQ(profile.same_zone.bytes_per_s, 1e9);
  EXPECT_EQ(profile.same_zone.latency_s, 1e-3);
  EXPECT_EQ(profile.between_zones.bytes_per_s, 2e7);
  EXPECT_EQ(profile.between_zones.latency_s, 0.05);
  ASSERT_EQ(profile.overrides.size(), 1U);
  EXPECT_EQ(profile.overrides[0].from, WorkerId(1));
  EXPECT_EQ(profile.overrides[0].to, WorkerId(2));
  EXPECT_EQ(profile.overrides[0].link.bytes_per_s, 1e8);
  EXPECT_EQ(profile.overrides[0].link.latency_s, 1e-3) << "its class's";
}

TEST(MeasuredLinks, TheSlowerDirectionCounts) {
  ClusterProfile profile = cluster();
  apply_links(profile, measured({{0, link(2, 1e9, 1e-4)}, {2, link(0, 5e8, 2e-4)}}));
  EXPECT_EQ(profile.same_zone.bytes_per_s, 5e8);
  EXPECT_EQ(profile.same_zone.latency_s, 2e-4);
}

TEST(MeasuredLinks, NetworkClassesAreMeasuredApart) {
  ClusterProfile profile = cluster("infiniband");
  const double zone = profile.same_zone.bytes_per_s;
  apply_links(profile, measured({{0, link(2, 2e10)}}));
  ASSERT_EQ(profile.nics.size(), 1U);
  EXPECT_EQ(profile.nics[0].name, "infiniband");
  EXPECT_EQ(profile.nics[0].link.bytes_per_s, 2e10);
  EXPECT_EQ(profile.same_zone.bytes_per_s, zone);
}

TEST(MeasuredLinks, NonsenseAndStrangersAreLeftOut) {
  ClusterProfile profile = cluster();
  const double host = profile.same_host.bytes_per_s;
  apply_links(profile, measured({{0, link(1, std::numeric_limits<double>::quiet_NaN(), -1)},
                                 {0, link(0, 5, 5)},
                                 {0, link(9, 1e9)},
                                 {9, link(0, 1e9)},
                                 {1, link(0, 1e300, std::numeric_limits<double>::infinity())},
                                 {2, link(3, 1e-300, 1e-300)}}));
  EXPECT_EQ(profile.same_host.bytes_per_s, host);
  EXPECT_TRUE(profile.overrides.empty());
}

TEST(MeasuredLinks, WhatIsToldNoMoreIsForgotten) {
  LinkTable table;
  const auto note = [&](Duration at, LinkMeasure link) { note_links(table, std::span(&link, 1), Instant{} + at); };
  note(0s, link(1, 1e9));
  note(0s, link(2, 1e9, 1e-3));
  note(240s, link(2, 0, 1e-3));
  EXPECT_EQ(table.size(), 2U);
  EXPECT_EQ(table[WorkerId(2)].bytes_per_second, 0) << "its worker has forgotten the rate";
  note(400s, link(3, 1e9));
  EXPECT_FALSE(table.contains(WorkerId(1)));
  note(401s, link(3, 0, 0));
  EXPECT_FALSE(table.contains(WorkerId(3)));
  EXPECT_TRUE(table.contains(WorkerId(2)));
}

TEST(MeasuredLinks, WhatMembersWouldWaitForIsBounded) {
  constexpr std::uint32_t kWorkers = 400;
  ClusterProfile profile;
  for (std::uint32_t w = 0; w < kWorkers; ++w) {
    profile.workers.push_back({WorkerId(w), 1, 1, "h" + std::to_string(w), "z", ""});
  }
  std::map<WorkerId, LinkTable> tables;
  for (std::uint32_t from = 0; from < kWorkers; ++from) {
    for (std::uint32_t near = 1; near < 100; ++near) {
      const LinkMeasure measure = link((from + near) % kWorkers, near % 3 == 0 ? 1e7 / (1 + from) : 1e9);
      note_links(tables[WorkerId(from)], std::span(&measure, 1), Instant{});
    }
    EXPECT_LE(tables[WorkerId(from)].size(), 64U);
  }
  apply_links(profile, tables);
  EXPECT_EQ(profile.same_zone.bytes_per_s, 1e9);
  ASSERT_EQ(profile.overrides.size(), 2000U);
  for (const LinkOverride& pair : profile.overrides) EXPECT_LT(pair.link.bytes_per_s, 1e5) << "not the farthest";
}

TEST(MeasuredLinks, OnlyLinksThatAreFarFromWhatTheyWereCallForAPlan) {
  const ClusterProfile then = cluster();
  ClusterProfile now = then;
  now.same_zone.bytes_per_s *= 1.3;
  EXPECT_TRUE(workers_with_other_links(now, then).empty());
  now.overrides.push_back({WorkerId(1), WorkerId(2), {1e6, 1e-3}});
  EXPECT_EQ(workers_with_other_links(now, then), (std::set{WorkerId(1), WorkerId(2)}));
  EXPECT_EQ(workers_with_other_links(then, now), (std::set{WorkerId(1), WorkerId(2)}));
  EXPECT_TRUE(workers_with_other_links(now, now).empty());
  now.between_zones.latency_s *= 10;
  EXPECT_EQ(workers_with_other_links(now, then).size(), 5U);
}

}  // namespace
}  // namespace planaria
