#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "tests/integration/planaria_process.hpp"

namespace planaria {
namespace {

// A loopback port that is taken for as long as this lives.
class BusyPort {
 public:
  BusyPort() {
    socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    bind(socket_, reinterpret_cast<sockaddr*>(&address), size);
    listen(socket_, 1);
    getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
  }
  ~BusyPort() { close(socket_); }
  BusyPort(const BusyPort&) = delete;
  BusyPort& operator=(const BusyPort&) = delete;
  [[nodiscard]] std::string port() const { return std::to_string(port_); }

 private:
  int socket_ = -1;
  int port_ = 0;
};

void expect_refusal(const std::vector<std::string>& arguments, int exit_code, const std::string& told) {
  const ProgramResult result = planaria_program(arguments, 30);
  EXPECT_EQ(result.exit_code, exit_code) << result.output;
  EXPECT_NE(result.output.find(told), std::string::npos) << result.output;
}

TEST(BadInput, AnUnknownKeyIsRefusedWithASuggestion) {
  expect_refusal({"run", tiny_job(), "--set", "optimizer.learning_rat=1"}, 2, "learning_rate");
}

TEST(BadInput, AnIllTypedValueIsRefusedWithItsPlace) {
  expect_refusal({"run", tiny_job(), "--set", "train.steps=many"}, 2, "train.steps");
}

TEST(BadInput, MissingDataIsToldByItsPath) {
  const ScratchDirectory scratch;
  expect_refusal({"run", tiny_job(), "--set", "data.path=/nowhere/text", "--out", scratch.path("o"), "--quiet"}, 3,
                 "/nowhere/text");
}

TEST(BadInput, EmptyDataIsRefused) {
  const ScratchDirectory scratch;
  std::ofstream(scratch.path("empty.txt")).flush();
  expect_refusal(
      {"coordinator", tiny_job(), "--set", "data.path=" + scratch.path("empty.txt"), "--out", scratch.path("o")}, 2,
      "empty.txt");
}

TEST(BadInput, ABusyPortIsNamed) {
  const ScratchDirectory scratch;
  const BusyPort busy;
  expect_refusal({"coordinator", tiny_job(), "--listen", "127.0.0.1:" + busy.port(), "--out", scratch.path("o")}, 5,
                 busy.port());
}

TEST(BadInput, AnOpenAddressNeedsATokenAndTls) {
  const ScratchDirectory scratch;
  expect_refusal({"coordinator", tiny_job(), "--listen", "0.0.0.0:0", "--out", scratch.path("o")}, 2, "join_token");
}

TEST(BadInput, AnAddressAloneListensOnAnyPort) {
  const ScratchDirectory scratch;
  expect_refusal({"coordinator", tiny_job(), "--listen", "0.0.0.0", "--out", scratch.path("o")}, 2, "join_token");
  expect_refusal({"coordinator", tiny_job(), "--listen", "127.0.0.1:http", "--out", scratch.path("o")}, 2, "--listen");
}

TEST(BadInput, AnUnknownLogLevelIsRefused) {
  const ScratchDirectory scratch;
  expect_refusal({"coordinator", tiny_job(), "--log-level", "loud", "--out", scratch.path("o")}, 2, "loud");
}

TEST(BadInput, AWrongScenarioIsRefusedWithItsPlace) {
  const ScratchDirectory scratch;
  std::ofstream(scratch.path("s.toml")) << "[[fault]]\nkind = \"explode\"\n";
  expect_refusal({"run", tiny_job(), "--scenario", scratch.path("s.toml"), "--out", scratch.path("o")}, 2, "explode");
}

TEST(BadInput, AnUnknownSubcommandIsNamed) {
  expect_refusal({"rnu"}, 2, "did you mean 'run'");
  EXPECT_EQ(planaria_program({"--help"}).exit_code, 0);
}

TEST(BadInput, ChaosEmptiesNoStrangersDirectory) {
  const ScratchDirectory scratch;
  std::ofstream(scratch.path("thesis.tex")) << "years of work\n";
  expect_refusal({"chaos", tiny_job(), "--runs", "1", "--out", scratch.path("")}, 2, "give another --out");
  EXPECT_TRUE(std::ifstream(scratch.path("thesis.tex")).good());
}

TEST(BadInput, ExportOfNoRunSaysSo) {
  const ScratchDirectory scratch;
  expect_refusal({"export", "--from", "/tmp", "--to", scratch.path("o")}, 3, "job.toml");
  expect_refusal({"export", "--from", scratch.path("nowhere"), "--to", scratch.path("o")}, 3, "nowhere");
}

TEST(BadInput, AMissingJobFileIsNamed) {
  expect_refusal({"run", "nothere.toml"}, 3, "nothere.toml");
}

TEST(BadInput, NumbersOutOfRangeAreRefused) {
  expect_refusal({"simulate", "--workers", "2"}, 2, "from 3 to");
  expect_refusal({"simulate", "--seeds", "-1"}, 2, "--seeds");
  expect_refusal({"chaos", tiny_job(), "--runs", "0"}, 2, "--runs");
  expect_refusal({"run", tiny_job(), "--workers", "0"}, 2, "--workers");
  expect_refusal({"generate", "--from", "x", "--temperature", "nan"}, 2, "--temperature");
}

TEST(BadInput, AnObstacleInTheOutputDirectoryIsNamed) {
  const ScratchDirectory scratch;
  std::filesystem::create_directories(scratch.path("o/coordinator.json/x"));
  expect_refusal({"run", tiny_job(), "--out", scratch.path("o"), "--quiet"}, 2, "coordinator.json");
  std::ofstream(scratch.path("file")) << "no directory\n";
  expect_refusal({"run", tiny_job(), "--out", scratch.path("file/o"), "--quiet"}, 2, "file");
}

TEST(BadInput, StatusOfWhatIsNoRunNamesTheMissingFile) {
  const ScratchDirectory scratch;
  expect_refusal({"status", scratch.path("")}, 3, "coordinator.json");
}

TEST(BadInput, AssignmentsWithoutAJobAreRefused) {
  expect_refusal({"worker", "--join", "127.0.0.1:1", "--set", "cluster.nonsense=1"}, 2, "without JOB");
}

}  // namespace
}  // namespace planaria
