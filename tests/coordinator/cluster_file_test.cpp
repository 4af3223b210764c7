#include "coordinator/planner/cluster_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace planaria {
namespace {

using ::testing::HasSubstr;

std::string refusal(std::string_view text) {
  const auto file = parse_cluster(text, "c.toml");
  return file ? "" : file.error().message();
}

TEST(ClusterFile, ExampleIsRead) {
  const auto file = load_cluster(PLANARIA_SOURCE_DIR "/examples/cluster.toml");
  ASSERT_TRUE(file) << file.error().message();
  EXPECT_EQ(file->cluster.workers.size(), 6U);
  EXPECT_EQ(file->cluster.workers[4].speed, 2.0);
  EXPECT_EQ(file->cluster.overrides.size(), 1U);
}

TEST(ClusterFile, WhatIsWrittenIsReadAsTheSame) {
  const auto file = load_cluster(PLANARIA_SOURCE_DIR "/examples/cluster.toml");
  ASSERT_TRUE(file);
  const std::string text = cluster_to_toml(*file);
  const auto again = parse_cluster(text, "again.toml");
  ASSERT_TRUE(again) << again.error().message() << text;
  EXPECT_EQ(again->cluster.workers.size(), file->cluster.workers.size());
  EXPECT_EQ(again->cluster.workers[5].host, "c");
}

TEST(ClusterFile, WorkersWithoutHostShareNone) {
  const auto file = parse_cluster("[[worker]]\ncount = 2\n", "c.toml");
  ASSERT_TRUE(file) << file.error().message();
  EXPECT_NE(file->cluster.workers[0].host, file->cluster.workers[1].host);
}

TEST(ClusterFile, UnknownKeyIsRefusedWithASuggestion) {
  EXPECT_THAT(refusal("[[worker]]\nsped = 2.0\n"), HasSubstr("did you mean \"speed\"?"));
  EXPECT_THAT(refusal("[same_hosts]\nlatency_us = 1.0\n[[worker]]\n"), HasSubstr("did you mean [same_host]?"));
}

TEST(ClusterFile, UnknownNicIsRefusedWithASuggestion) {
  EXPECT_THAT(refusal("[[nic]]\nname = \"rdma\"\n[[worker]]\nnic = \"rmda\"\n"), HasSubstr("did you mean \"rdma\"?"));
}

TEST(ClusterFile, ValuesOutOfRangeAreToldWithTheirPlace) {
  EXPECT_THAT(refusal("[[worker]]\nspeed = -1.0\n"), HasSubstr("c.toml:2"));
  EXPECT_THAT(refusal("[[worker]]\nmemory_gib = 0\n"), HasSubstr("memory_gib"));
  EXPECT_THAT(refusal("[same_zone]\nbandwidth_gbit = 0.0\n[[worker]]\n"), HasSubstr("bandwidth_gbit"));
}

TEST(ClusterFile, NoWorkersIsRefused) {
  EXPECT_THAT(refusal(""), HasSubstr("[[worker]]"));
}

TEST(ClusterFile, TooManyWorkersAreRefused) {
  EXPECT_THAT(refusal("[[worker]]\ncount = 20000\n[[worker]]\ncount = 2\n"), HasSubstr("20000"));
}

TEST(ClusterFile, AHostInTwoZonesIsRefused) {
  EXPECT_THAT(refusal("[[worker]]\nhost = \"a\"\nzone = \"x\"\n[[worker]]\nhost = \"a\"\nzone = \"y\"\n"),
              HasSubstr("already"));
}

TEST(ClusterFile, LinkToNobodyIsRefused) {
  EXPECT_THAT(refusal("[[worker]]\ncount = 2\n[[link]]\nfrom = 0\nto = 2\n"), HasSubstr("workers 0 to 1"));
  EXPECT_THAT(refusal("[[worker]]\ncount = 2\n[[link]]\nfrom = 1\nto = 1\n"), HasSubstr("joins two"));
}

TEST(ClusterFile, WhatIsNotTomlIsRefused) {
  EXPECT_THAT(refusal("[[worker"), HasSubstr("not TOML"));
}

}  // namespace
}  // namespace planaria
