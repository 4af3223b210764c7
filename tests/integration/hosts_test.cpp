// Jobs on several hosts with keepers, of which some are lost.
#include <gtest/gtest.h>

#include <fstream>

#include "tests/integration/planaria_process.hpp"

namespace planaria {
namespace {

constexpr const char* kSteps = "24";

nlohmann::json run_steps(const std::string& output, std::vector<std::string> more) {
  std::vector<std::string> arguments{"run", tiny_job(), "--out", output, "--quiet", "--json", "--steps", kSteps};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const ProgramResult result = planaria_program(arguments);
  EXPECT_EQ(result.exit_code, 0) << result.output;
  return last_json(result);
}

// With a sharded optimizer: what a host holds nobody else does.
std::vector<std::string> on_hosts(const std::string& hosts, const std::string& scenario,
                                  std::vector<std::string> more) {
  std::vector<std::string> arguments{"--workers",  hosts,    "--hosts", hosts,
                                     "--scenario", scenario, "--set",   "optimizer.shard=true"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

class Hosts : public testing::Test {
 protected:
  void lose(const std::vector<std::pair<std::uint32_t, std::uint32_t>>& at_steps) {  // step, host
    std::ofstream scenario(scenario_);
    for (const auto& [step, host] : at_steps) {
      scenario << "[[fault]]\nkind = \"kill_host\"\nat_step = " << step << "\nphase = \"forward\"\nhost = " << host
               << "\nobserver = 0\nfor_s = 0.5\n";
    }
  }

  const ScratchDirectory scratch_;
  const std::string scenario_ = scratch_.path("s.toml");
  const nlohmann::json alone_ = run_steps(scratch_.path("alone"), {"--workers", "1"});
};

TEST_F(Hosts, ThatAreLostAreMadeGoodFromFragments) {
  lose({{8, 2}, {18, 1}});
  const auto run = run_steps(scratch_.path("run"), on_hosts("4", scenario_, {}));
  EXPECT_EQ(run["faults_fired"].size(), 2U);
  EXPECT_EQ(run["weights_hash"], alone_["weights_hash"]);
  for (const auto& recovery : run["recoveries"]) EXPECT_EQ(recovery["tier"], 0) << recovery;
  const auto status = nlohmann::json::parse(file_text(scratch_.path("run/result.json")));
  for (const auto& row : status["workers"]) {
    if (row["host"] != "host-0") continue;  // which wasn't lost
    const bool keeper = row["role"] == "keeper";
    EXPECT_GT(keeper ? row["keeping"]["sent_bytes"] : row["copying"]["copied_bytes"], 0) << row;
  }
}

// Parity is spoilt in a keeper's memory, and then another host is lost whose state is to be made from it.
class HostsWithDamage : public Hosts {
 protected:
  nlohmann::json lose_after_damage(const std::string& how, const std::string& parity) {
    {
      std::ofstream scenario(scenario_);
      const int at_step = how == "old" ? 10 : 14;  // snapshots are of steps 6 and 12; `old` strikes the next one
      scenario << "[[fault]]\nkind = \"damage_fragment\"\nat_step = " << at_step
               << "\nphase = \"forward\"\nhost = 3\nobserver = 0\n"
               << "how = \"" << how << "\"\n"
               << "[[fault]]\nkind = \"kill_host\"\nat_step = 15\nphase = \"forward\"\nhost = 2\nobserver = 0\n";
    }
    auto run = run_steps(scratch_.path("run"),
                         on_hosts("4", scenario_,
                                  {"--set", "snapshot.every_steps=6", "--set", "checkpoint.every_steps=3", "--set",
                                   "snapshot.data=2", "--set", "snapshot.parity=" + parity}));
    EXPECT_EQ(run["faults_fired"].size(), 2U);
    EXPECT_EQ(run["weights_hash"], alone_["weights_hash"]);
    return run;
  }
};

class DamagedFragments : public HostsWithDamage, public testing::WithParamInterface<const char*> {};

TEST_P(DamagedFragments, AreAsGoodAsLost) {
  const auto run = lose_after_damage(GetParam(), "1");
  bool fell_back = false;
  for (const auto& recovery : run["recoveries"]) fell_back = fell_back || recovery["tier"] == 2;
  EXPECT_TRUE(fell_back) << run["recoveries"];
}

TEST_F(HostsWithDamage, AreMadeGoodByOtherParity) {
  const auto run = lose_after_damage("flip", "2");
  for (const auto& recovery : run["recoveries"]) EXPECT_LE(recovery["tier"], 1) << recovery;
}

INSTANTIATE_TEST_SUITE_P(Kinds, DamagedFragments, testing::Values("flip", "truncate", "swap", "old"),
                         [](const auto& info) { return std::string(info.param); });

TEST_F(Hosts, MoreThanParitiesFallBackToASnapshotThatKeepersSaved) {
  lose({{16, 1}, {16, 2}});
  // Nobody waits for the disk: one snapshot at least shall be there before the loss.
  std::ofstream(scenario_, std::ios::app)
      << "[[fault]]\nkind = \"slow\"\nat_step = 6\nworker = 0\ncpu_fraction = 0.1\n";
  const auto run = run_steps(
      scratch_.path("run"),
      on_hosts("3", scenario_,
               {"--set", "snapshot.durable=true", "--set", "checkpoint.every_steps=4", "--set", "snapshot.parity=1"}));
  EXPECT_EQ(run["faults_fired"].size(), 3U);
  EXPECT_EQ(run["weights_hash"], alone_["weights_hash"]);
  bool fell_back = false;
  for (const auto& recovery : run["recoveries"]) fell_back = fell_back || recovery["tier"] == 2;
  EXPECT_TRUE(fell_back) << run["recoveries"];
  const ProgramResult listed = planaria_program({"snapshot", "list", scratch_.path("run"), "--json"});
  EXPECT_EQ(listed.exit_code, 0) << listed.output;
  const ProgramResult verified = planaria_program({"snapshot", "verify", scratch_.path("run")});
  EXPECT_EQ(verified.exit_code, 0) << verified.output;
}

}  // namespace
}  // namespace planaria
