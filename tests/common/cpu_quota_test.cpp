#include "common/cpu_quota.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <limits>

#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

class CpuQuota : public testing::Test {
 protected:
  void write(const std::string& name, const std::string& text) {
    const std::filesystem::path path = directory_.path(name);
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  [[nodiscard]] double quota() const { return cpu_quota({directory_.path("of_process"), directory_.path("root")}); }

  TemporaryDirectory directory_;
  const double unlimited_ = std::numeric_limits<double>::infinity();
};

TEST_F(CpuQuota, IsUnlimitedWhereTheSystemDoesntTell) {
  EXPECT_EQ(quota(), unlimited_);
}

TEST_F(CpuQuota, OfVersion2TheTightestGroupAroundTheProcessCounts) {
  write("of_process", "0::/a/b\n");
  write("root/a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(quota(), unlimited_);
  write("root/a/cpu.max", "150000 100000\n");
  EXPECT_EQ(quota(), 1.5);
  write("root/a/b/cpu.max", "40000 100000\n");
  EXPECT_EQ(quota(), 0.4);
  write("root/cpu.max", "20000 100000\n");  // a namespace's own root
  EXPECT_EQ(quota(), 0.2);
}

TEST_F(CpuQuota, OfVersion1TheCpuControllersGroupCounts) {
  write("of_process", "9:name=systemd:/\n3:cpuset:/x\n2:cpuacct,cpu:/a\n0::/\n");
  write("root/cpu/a/cpu.cfs_quota_us", "-1\n");
  write("root/cpu/a/cpu.cfs_period_us", "10000\n");
  EXPECT_EQ(quota(), unlimited_);
  write("root/cpu/a/cpu.cfs_quota_us", "4000\n");
  EXPECT_EQ(quota(), 0.4);
}

TEST_F(CpuQuota, WhatMakesNoSenseIsNoLimit) {
  write("of_process", "rubbish\n:\n0:\n0::\n0::/../..//\n1:cpu:\n");
  write("root/cpu.max", "many 0\n");
  write("root/cpu/cpu.cfs_quota_us", "1e999\n");
  write("root/cpu/cpu.cfs_period_us", "0\n");
  EXPECT_EQ(quota(), unlimited_);
}

TEST_F(CpuQuota, AQuotaTimerTellsHowLongTheLimitMakesWorkLast) {
  const ProcessorClock spent(1);
  const auto work = [&] {
    const Instant until = spent.now() + std::chrono::milliseconds(5);
    while (spent.now() < until) {
    }
  };
  QuotaTimer free({directory_.path("of_process"), directory_.path("root")});
  free.begin();
  EXPECT_EQ(free.granted_in(free.spent()), Duration{});
  write("of_process", "0::/a\n");
  write("root/a/cpu.max", "20000 100000\n");
  QuotaTimer limited({directory_.path("of_process"), directory_.path("root")});
  limited.begin();
  work();
  EXPECT_GE(limited.granted_in(limited.spent()), std::chrono::milliseconds(25));
}

}  // namespace
}  // namespace planaria
