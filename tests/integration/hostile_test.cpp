// What strangers and a full disk do to a job that trains.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <limits>
#include <map>
#include <thread>

#include "tests/coordinator/raw_socket.hpp"
#include "tests/integration/listening_ports.hpp"
#include "tests/integration/planaria_process.hpp"
#include "tests/sanitized.hpp"

namespace planaria {
namespace {

using std::chrono::milliseconds;

std::vector<std::string> tiny_run(const std::string& output, const std::string& steps = "60") {
  return {"run", tiny_job(), "--out", output, "--quiet", "--json", "--steps", steps, "--workers", "3"};
}

std::string undisturbed_hash(const ScratchDirectory& scratch) {
  const ProgramResult result = planaria_program(tiny_run(scratch.path("undisturbed")));
  const auto summary = last_json(result);
  EXPECT_TRUE(summary.is_object()) << result.output;
  return summary.value("weights_hash", "");
}

// Where the run's coordinator takes workers; it has 10 s to say so.
std::string control_address(const std::string& output) {
  for (int i = 0; i < 1000; ++i) {
    const auto ports = nlohmann::json::parse(file_text(output + "/coordinator.json"), nullptr, false);
    if (ports.is_object()) return "127.0.0.1:" + std::to_string(ports["control_port"].get<int>());
    std::this_thread::sleep_for(milliseconds(10));
  }
  return "127.0.0.1:1";
}

// How often each port is molested: always anew, or as often as a sanitizer's machine bears. Gigabytes that strangers
// make the network library clear cost it minutes.
constexpr int kVisits = kSanitized ? 3 : std::numeric_limits<int>::max();

// Garbage, a valid-looking length and silence: each in a connection of its own.
void molest(std::uint16_t port, std::uint32_t seed) {
  try {
    const RawSocket noise(port);
    noise.send_random(seed, 20'000);
    const RawSocket boast(port);
    boast.send(std::string(8, '\xff') + std::string(64, '\x7f'));
    const RawSocket silent(port);
    std::this_thread::sleep_for(milliseconds(20));
  } catch (const std::runtime_error&) {  // it stopped to listen: the job is at its end
  }
}

TEST(Hostile, RandomBytesOnEveryPortLeaveTheBitsAlone) {
  const ScratchDirectory scratch;
  const std::string expected = undisturbed_hash(scratch);
  const std::string output = scratch.path("molested");
  auto run = std::async(std::launch::async, [&] { return planaria_program(tiny_run(output)); });
  std::map<std::uint16_t, int> visits;
  std::uint32_t seed = 0;
  while (run.wait_for(milliseconds(10)) != std::future_status::ready) {
    for (const std::uint16_t port : listening_ports(output)) {
      if (visits[port]++ < kVisits) molest(port, ++seed);
    }
  }
  const ProgramResult result = run.get();
  EXPECT_EQ(result.exit_code, 0) << result.output;
  const auto summary = last_json(result);
  ASSERT_TRUE(summary.is_object()) << result.output;
  EXPECT_EQ(summary["weights_hash"], expected);
  EXPECT_EQ(summary["microbatches_computed"], 60 * 128) << summary["recoveries"].dump();
  EXPECT_GE(visits.size(), 3U) << "control, HTTP and the workers' data ports";
}

// A mount namespace of its own needs no root where user namespaces are allowed.
TEST(Hostile, ADataFileThatShrinksEndsTheWorkersWithTheReason) {
  const ScratchDirectory scratch;
  const std::string data = scratch.path("text");
  {
    std::ofstream file(data);
    const std::string text = file_text("/usr/share/common-licenses/GPL-3");
    for (int i = 0; i < 100; ++i) file << text;  // large enough to be mapped
  }
  const std::string output = scratch.path("shrunk");
  auto arguments = tiny_run(output, "100000");
  arguments.insert(arguments.end(), {"--set", "data.path=" + data});
  auto run = std::async(std::launch::async, [&] { return planaria_program(arguments); });
  for (int i = 0; i < 1000 && file_text(output + "/metrics.jsonl").empty(); ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  std::filesystem::resize_file(data, 0);
  const ProgramResult result = run.get();
  EXPECT_NE(result.exit_code, 0);
  EXPECT_NE(result.output.find("a data file can't be read any more"), std::string::npos) << result.output;
}

TEST(Hostile, AFullDiskCostsCheckpointsButNotTheTraining) {
  if (std::system("unshare --user --map-root-user --mount mount -t tmpfs tmpfs /mnt 2>/dev/null") != 0) {
    GTEST_SKIP() << "this system lets nobody but root mount a file system, so no small disk can be had";
  }
  const ScratchDirectory scratch;
  const std::string expected = undisturbed_hash(scratch);
  const std::string output = scratch.path("full");
  // A checkpoint is 1 MB: the first fits, the next doesn't.
  const std::string script = "mkdir -p " + output + "/checkpoints && mount -t tmpfs -o size=1536k tmpfs " + output +
                             "/checkpoints && exec \"$@\"";
  std::vector<std::string> command{
      "/usr/bin/unshare", "--user", "--map-root-user", "--mount", "/bin/sh", "-c", script, "sh"};
  auto run = tiny_run(output);
  run.insert(run.end(), {"--set", "checkpoint.final_retries=1"});
  command.push_back(planaria_binary());
  command.insert(command.end(), run.begin(), run.end());
  const ProgramResult result = run_program(command);
  EXPECT_EQ(result.exit_code, 5) << result.output;
  EXPECT_NE(result.output.find("isn't saved"), std::string::npos) << result.output;
  const std::string status = file_text(output + "/result.json");
  EXPECT_NE(status.find(expected), std::string::npos) << status;
  EXPECT_NE(status.find("MB free; free space there"), std::string::npos) << status;
}

TEST(Hostile, AWorkerOfAnotherJobIsRefused) {
  const ScratchDirectory scratch;
  const std::string output = scratch.path("run");
  auto run = std::async(std::launch::async, [&] { return planaria_program(tiny_run(output)); });
  const ProgramResult stranger = planaria_program({"worker", tiny_job(), "--set", "train.seed=99", "--join",
                                                   control_address(output), "--out", scratch.path("stranger")},
                                                  30);
  EXPECT_EQ(stranger.exit_code, 4) << stranger.output;
  EXPECT_NE(stranger.output.find("the job differs"), std::string::npos) << stranger.output;
  EXPECT_EQ(run.get().exit_code, 0);
}

}  // namespace
}  // namespace planaria
