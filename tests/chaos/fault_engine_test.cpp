#include "chaos/faults/fault_engine.hpp"

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <set>

#include "chaos/faults/random_scenario.hpp"

namespace planaria {
namespace {

Instant at_ms(std::int64_t ms) {
  return {ms * 1'000'000};
}

Scenario parse(std::string_view text) {
  auto scenario = parse_scenario(text, "test");
  EXPECT_TRUE(scenario.ok()) << (scenario.ok() ? "" : scenario.error().message());
  return scenario.ok() ? *scenario : Scenario{};
}

std::vector<std::string> told(const std::vector<FaultOrder>& orders) {
  std::vector<std::string> lines;
  for (const FaultOrder& order : orders) {
    if (const auto* tell = std::get_if<fault_order::Tell>(&order)) {
      lines.push_back(std::to_string(tell->worker) + ": " + tell->line);
    }
  }
  return lines;
}

std::vector<int> signals(const std::vector<FaultOrder>& orders) {
  std::vector<int> numbers;
  for (const FaultOrder& order : orders) {
    if (const auto* signal = std::get_if<fault_order::Signal>(&order)) numbers.push_back(signal->number);
  }
  return numbers;
}

TEST(Scenario, FaultsThatCannotStrikeAreTold) {
  const Scenario scenario = parse(
      "[[fault]]\nkind = \"join\"\nat_step = 1\n"
      "[[fault]]\nkind = \"kill\"\nat_step = 2\nworker = 3\n"
      "[[fault]]\nkind = \"kill\"\nat_step = 2\nworker = 4\n"
      "[[fault]]\nkind = \"kill\"\nat_step = 7\nworker = 0\n"
      "[[fault]]\nkind = \"partition\"\nat_s = 1\nfrom = \"coordinator\"\nto = \"9\"\n");
  const auto told = never_strike(scenario, 3, 0, 6);
  ASSERT_EQ(told.size(), 3U);
  EXPECT_NE(told[0].find("no worker 4"), std::string::npos) << told[0];
  EXPECT_NE(told[1].find("step 7"), std::string::npos) << told[1];
  EXPECT_NE(told[2].find("no worker 9"), std::string::npos) << told[2];
}

TEST(Scenario, MoreFaultsThanAllowedAreRefusedNotDropped) {
  std::string text;
  for (std::size_t i = 0; i <= kMaxFaults; ++i) text += "[[fault]]\nkind = \"join\"\nat_s = 1\n";
  const auto scenario = parse_scenario(text, "long.toml");
  ASSERT_FALSE(scenario.ok());
  EXPECT_NE(scenario.error().message().find("at most 10000 faults"), std::string::npos) << scenario.error().message();
}

TEST(Scenario, ProblemsNameTheirPlace) {
  for (const char* text :
       {"[[fault]]\nkind = \"kil\"\nat_step = 1\nworker = 0\n", "[[fault]]\nkind = \"kill\"\nworker = 0\n",
        "[[fault]]\nkind = \"kill\"\nat_step = 1\n", "[[fault]]\nkind = \"kill\"\nat_stpe = 1\nworker = 0\n",
        "[[fault]]\nkind = \"partition\"\nat_s = 1\nfrom = \"0\"\n", "fault = 3\n", "[[fault"}) {
    const auto scenario = parse_scenario(text, "broken.toml");
    ASSERT_FALSE(scenario.ok()) << text;
    EXPECT_NE(scenario.error().message().find("broken.toml"), std::string::npos) << scenario.error().message();
  }
}

TEST(Scenario, DrawnOnesAreReadBackTheSame) {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    const Scenario drawn = draw_scenario({.seed = seed, .steps = 40, .workers = 4, .stop_s = 1.5});
    const std::string text = scenario_to_toml(drawn);
    EXPECT_EQ(scenario_to_toml(parse(text)), text) << "seed " << seed;
  }
}

TEST(RandomScenario, HoldsTheFaultsThatACampaignPromises) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    const Scenario drawn = draw_scenario({.seed = seed, .steps = 40, .workers = 4, .stop_s = 1.5});
    std::multiset<FaultKind> kinds;
    std::multiset<Phase> killed_in;
    std::multiset<std::pair<std::uint64_t, Phase>> points;
    for (const Fault& fault : drawn.faults) {
      kinds.insert(fault.kind);
      if (fault.kind != FaultKind::kill) continue;
      killed_in.insert(fault.phase);
      points.emplace(*fault.at_step, fault.phase);
    }
    EXPECT_EQ(kinds.count(FaultKind::kill), 5U);
    EXPECT_EQ(killed_in.count(Phase::fetch), 1U);
    EXPECT_EQ(std::set<Phase>(killed_in.begin(), killed_in.end()).size(), 4U);
    EXPECT_EQ(std::set(points.begin(), points.end()).size(), 4U);  // two at once
    EXPECT_EQ(kinds.count(FaultKind::stop), 1U);
    EXPECT_EQ(kinds.count(FaultKind::drain), 1U);
    EXPECT_EQ(kinds.count(FaultKind::slow), 1U);
    EXPECT_EQ(kinds.count(FaultKind::join), 4U);
    EXPECT_EQ(kinds.count(FaultKind::kill_coordinator), 1U);
  }
}

TEST(RandomScenario, OnHostsKeepersAndAHostAreLostButNotThatOfTheLastWorker) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    const std::uint32_t hosts = 2 + seed % 3;
    const Scenario drawn = draw_scenario({.seed = seed, .steps = 40, .workers = 4, .stop_s = 1.5, .hosts = hosts});
    std::multiset<FaultKind> kinds;
    std::uint64_t last = 0;  // step of the others
    for (const Fault& fault : drawn.faults) {
      kinds.insert(fault.kind);
      if (fault.kind != FaultKind::kill_host) {
        last = std::max(last, fault.at_step.value_or(0));
        continue;
      }
      EXPECT_NE(*fault.host, *fault.observer % hosts) << "seed " << seed;
      EXPECT_GE(*fault.at_step, last);
    }
    EXPECT_EQ(kinds.count(FaultKind::kill_host), 1U);
    EXPECT_EQ(kinds.count(FaultKind::kill_keeper), 1U);
    EXPECT_EQ(kinds.count(FaultKind::damage_fragment), 1U);
    const std::string text = scenario_to_toml(drawn);
    EXPECT_EQ(scenario_to_toml(parse(text)), text) << "seed " << seed;
  }
}

TEST(RandomScenario, HasAnotherVictimForEachFaultAndLeavesOneAlone) {
  for (std::uint32_t workers = 2; workers <= 8; ++workers) {
    for (std::uint64_t seed = 1; seed <= 50; ++seed) {
      const Scenario drawn = draw_scenario({.seed = seed, .steps = 40, .workers = workers, .stop_s = 1.5});
      std::uint32_t all = workers;
      std::set<std::uint32_t> victims;
      for (const Fault& fault : drawn.faults) {
        if (fault.kind == FaultKind::join) ++all;
        EXPECT_TRUE(!fault.worker || victims.insert(*fault.worker).second) << workers << " workers, seed " << seed;
        if (fault.kind == FaultKind::slow) victims.erase(*fault.worker);
      }
      EXPECT_EQ(victims.size(), 7U);
      EXPECT_LT(*victims.rbegin(), all);
      EXPECT_GT(all, victims.size());
    }
  }
}

TEST(FaultEngine, AnObserversPointStrikesTheVictim) {
  FaultEngine engine(parse("[[fault]]\nkind = \"kill\"\nat_step = 3\nphase = \"fetch\"\nworker = 1\nobserver = 2\n"),
                     at_ms(0));
  EXPECT_TRUE(told(engine.worker_ready(1)).empty());
  EXPECT_EQ(told(engine.worker_ready(2)), std::vector<std::string>{"2: arm 3 fetch"});
  const auto orders = engine.phase_entered(2, 3, Phase::fetch, at_ms(70));
  EXPECT_EQ(signals(orders), std::vector<int>{SIGKILL});
  EXPECT_EQ(told(orders), std::vector<std::string>{"2: go"});
  ASSERT_EQ(engine.fired().size(), 1U);
  EXPECT_EQ(engine.fired()[0].worker, 1U);
}

TEST(FaultEngine, AKillStrikesItsVictimAtItsPointOnce) {
  FaultEngine engine(parse("[[fault]]\nkind = \"kill\"\nat_step = 3\nphase = \"gate\"\nworker = 1\n"), at_ms(0));
  EXPECT_TRUE(told(engine.worker_ready(0)).empty());
  EXPECT_EQ(told(engine.worker_ready(1)), std::vector<std::string>{"1: arm 3 gate"});
  const auto orders = engine.phase_entered(1, 3, Phase::gate, at_ms(70));
  EXPECT_EQ(signals(orders), std::vector<int>{SIGKILL});
  EXPECT_TRUE(told(orders).empty());  // nobody is told to go on
  ASSERT_EQ(engine.fired().size(), 1U);
  EXPECT_EQ(engine.fired()[0].at, at_ms(70));
  EXPECT_EQ(told(engine.phase_entered(1, 3, Phase::gate, at_ms(90))), std::vector<std::string>{"1: go"});
}

TEST(FaultEngine, AStoppedWorkerIsThawedAndGoesOn) {
  FaultEngine engine(parse("[[fault]]\nkind = \"stop\"\nat_step = 2\nworker = 0\nfor_s = 1.5\n"), at_ms(0));
  EXPECT_EQ(signals(engine.phase_entered(0, 2, Phase::forward, at_ms(100))), std::vector<int>{SIGSTOP});
  EXPECT_EQ(engine.next_deadline(), at_ms(1600));
  EXPECT_TRUE(engine.time_passed(at_ms(1599)).empty());
  const auto orders = engine.time_passed(at_ms(1600));
  EXPECT_EQ(signals(orders), std::vector<int>{SIGCONT});
  EXPECT_EQ(told(orders), std::vector<std::string>{"0: go"});
}

TEST(FaultEngine, AFaultWithoutAWorkerStrikesAtTheFirstAnnouncement) {
  FaultEngine engine(parse("[[fault]]\nkind = \"join\"\nat_step = 2\n"), at_ms(0));
  EXPECT_EQ(told(engine.worker_ready(0)), std::vector<std::string>{"0: arm 2 forward"});
  EXPECT_EQ(told(engine.worker_ready(1)), std::vector<std::string>{"1: arm 2 forward"});
  const auto first = engine.phase_entered(1, 2, Phase::forward, at_ms(5));
  EXPECT_TRUE(std::ranges::any_of(
      first, [](const auto& order) { return std::holds_alternative<fault_order::StartWorker>(order); }));
  EXPECT_EQ(told(first), std::vector<std::string>{"1: go"});
  EXPECT_EQ(engine.phase_entered(0, 2, Phase::forward, at_ms(6)).size(), 1U);  // just go
  EXPECT_EQ(engine.fired().size(), 1U);
}

TEST(FaultEngine, APartitionBlocksBothEndsUntilItHeals) {
  FaultEngine engine(parse("[[fault]]\nkind = \"partition\"\nat_s = 1\nfrom = \"0\"\nto = \"2\"\n"
                           "[[fault]]\nkind = \"heal\"\nat_s = 2\n"),
                     at_ms(0));
  EXPECT_EQ(told(engine.time_passed(at_ms(1000))), (std::vector<std::string>{"0: block 2", "2: block 0"}));
  EXPECT_EQ(told(engine.worker_ready(2)), std::vector<std::string>{"2: block 0"});  // restarted meanwhile
  EXPECT_EQ(told(engine.time_passed(at_ms(2000))), (std::vector<std::string>{"0: unblock 2", "2: unblock 0"}));
}

}  // namespace
}  // namespace planaria
