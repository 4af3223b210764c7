// Agents over the real control link, gateway and data plane, in one process.
#include "worker/shell/agent.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "mini_coordinator.hpp"
#include "proto/job_config.hpp"
#include "storage/export.hpp"
#include "tests/temporary_directory.hpp"
#include "worker/model/bare_loop.hpp"
#include "worker/shell/metrics_recorder.hpp"
#include "worker/trainer/ledger.hpp"

namespace planaria {
namespace {

constexpr char kJob[] = R"(
name = "agents"
[model]
layers = 2
heads = 2
width = 32
vocab = 256
context = 16
[data]
path = "/usr/share/common-licenses/GPL-3"
validation_fraction = 0.1
[batch]
micro_batches = 16
slots = 16
[train]
steps = 6
tile_elements = 1024
evaluate_every = 3
evaluation_batches = 4
[cluster]
workers = 2
lease_ms = 20000
prepare_timeout_ms = 30000
stall_timeout_ms = 60000
reconnect_timeout_ms = 30000
[checkpoint]
every_steps = 3
)";

// Listens on loopback and says one thing, whatever it is told, to whoever connects first.
class GreetingServer {
 public:
  explicit GreetingServer(std::string greeting) : listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_, 4), 0);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this, greeting = std::move(greeting)] {
      const int client = accept(listener_, nullptr, nullptr);
      send(client, greeting.data(), greeting.size(), MSG_NOSIGNAL);
      char byte = 0;
      while (recv(client, &byte, 1, 0) > 0) {
      }
      close(client);
    });
  }
  ~GreetingServer() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }
  GreetingServer(const GreetingServer&) = delete;
  GreetingServer& operator=(const GreetingServer&) = delete;
  [[nodiscard]] std::uint16_t port() const { return port_; }

 private:
  int listener_;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

class AgentTest : public ::testing::Test {
 protected:
  AgentTest() { job_ = parsed(kJob); }

  static JobSpec parsed(const std::string& text) {
    auto job = parse_job(text, "test");
    EXPECT_TRUE(job.ok()) << (job.ok() ? "" : job.error().describe());
    return std::move(job).value();
  }
  JobSpec hashed() const {
    JobSpec job = job_;
    job.data.content_hash = Dataset::open(job.data, job.model.context, job.model.vocab)->content_hash();
    return job;
  }
  WorkerOptions options(std::uint16_t port, bool with_job = true) const {
    WorkerOptions options;
    options.coordinator_port = port;
    options.out_directory = out_;
    options.connect_timeout_ms = 20000;
    if (with_job) options.job = job_;
    return options;
  }
  static std::unique_ptr<WorkerAgent> started(WorkerOptions options) {
    auto agent = WorkerAgent::start(std::move(options));
    EXPECT_TRUE(agent.ok()) << (agent.ok() ? "" : agent.error().describe());
    return agent.ok() ? std::move(agent).value() : nullptr;
  }
  void await_first_commit() const {
    while (!std::filesystem::exists(out_ + "/metrics.jsonl")) std::this_thread::yield();
  }
  Hash128 bare_weights() const {
    const auto device = std::move(make_cpu_device({})).value();
    const auto dataset = Dataset::open(job_.data, job_.model.context, job_.model.vocab);
    const WindowOrder order(job_.train.seed, dataset->windows(Split::train));
    auto trainer = BareTrainer::create(
        *device, job_, dataset_source(*dataset, order, {job_.batch.micro_batches, job_.batch.sequences}));
    for (std::uint64_t step = 0; step < job_.train.steps; ++step) EXPECT_TRUE((*trainer)->step().ok());
    return weights_hash(job_.model, (*trainer)->map(), (*trainer)->parameters_on_host());
  }

  const TemporaryDirectory directory_;
  const std::string out_ = directory_.path();
  JobSpec job_;
};

TEST_F(AgentTest, NoCoordinatorIsAClearError) {
  job_.cluster.reconnect_timeout_ms = 200;
  const auto agent = WorkerAgent::start(options(1));
  ASSERT_FALSE(agent.ok());
  EXPECT_EQ(agent.error().code(), ErrorCode::unavailable);
  EXPECT_THAT(agent.error().message(), ::testing::HasSubstr("no coordinator at 127.0.0.1:1"));
}

TEST_F(AgentTest, WhoIsStoppedWhileItLooksForTheCoordinatorGivesUp) {
  WorkerOptions looking = options(1);
  looking.job->cluster.reconnect_timeout_ms = 60'000;
  looking.give_up = [] { return true; };
  const auto agent = WorkerAgent::start(std::move(looking));
  ASSERT_FALSE(agent.ok());
  EXPECT_EQ(agent.error().code(), ErrorCode::cancelled);
}

TEST_F(AgentTest, ALinkThatFindsAnotherProtocolSaysSoAtOnce) {
  const GreetingServer server("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
  const auto agent = WorkerAgent::start(options(server.port()));
  ASSERT_FALSE(agent.ok());
  EXPECT_EQ(agent.error().code(), ErrorCode::invalid_argument);
  EXPECT_THAT(agent.error().message(), ::testing::HasSubstr("may be the HTTP port"));
}

TEST_F(AgentTest, MissingDataIsAClearError) {
  job_.data.path = "/nonexistent/text";
  const auto agent = WorkerAgent::start(options(1));
  ASSERT_FALSE(agent.ok());
  EXPECT_THAT(agent.error().message(), ::testing::HasSubstr("/nonexistent/text"));
}

TEST_F(AgentTest, WeightsThatAreNotTheJobsAreAClearError) {
  const StateMap map(job_.model, job_.train.tile_elements);
  const std::vector<float> zeros(map.vector_elements());
  ASSERT_TRUE(export_model(posix_file_system(), out_ + "/hf", job_.model, map, zeros).ok());
  job_.pretrained = {out_ + "/hf", {1, 2}};
  const auto other = WorkerAgent::start(options(1));
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().code(), ErrorCode::mismatch);
  EXPECT_THAT(other.error().message(), ::testing::HasSubstr("are not the job's: their hash is"));
  WorkerOptions elsewhere = options(1);
  elsewhere.pretrained = "/nonexistent/model";
  EXPECT_THAT(WorkerAgent::start(elsewhere).error().message(), ::testing::HasSubstr("/nonexistent/model"));
  elsewhere.job->pretrained = {};
  EXPECT_THAT(WorkerAgent::start(elsewhere).error().message(), ::testing::HasSubstr("starts from its seed"));
}

TEST_F(AgentTest, TwoAgentsTrainToTheBareLoopsWeights) {
  MiniCoordinator coordinator(hashed(), kJob);
  const auto first = started(options(coordinator.port()));
  const auto second = started(options(coordinator.port(), false));  // asks for the job
  ASSERT_TRUE(first && second);
  EXPECT_TRUE(first->wait().success);
  EXPECT_TRUE(second->wait().success);
  ASSERT_TRUE(coordinator.result().has_value()) << coordinator.story();
  EXPECT_EQ(coordinator.result()->weights, bare_weights());

  std::uint64_t computed = 0;
  for (const std::uint32_t worker : {0, 1}) {
    const auto ledger = read_ledger(ledger_path(out_, WorkerId(worker), Incarnation(1)));
    ASSERT_TRUE(ledger.ok());
    computed += ledger->records.size();
  }
  EXPECT_EQ(computed, job_.train.steps * job_.batch.micro_batches);
}

TEST_F(AgentTest, TheCurvesHaveEachStepOnce) {
  job_.cluster.workers = 1;
  {
    MiniCoordinator coordinator(hashed(), kJob);
    const auto agent = started(options(coordinator.port()));
    ASSERT_TRUE(agent);
    EXPECT_TRUE(agent->wait().success);
  }
  std::ifstream file(out_ + "/metrics.jsonl");
  std::vector<std::uint64_t> steps;
  for (std::string line; std::getline(file, line);) steps.push_back(nlohmann::json::parse(line)["step"]);
  EXPECT_THAT(steps, ::testing::ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(last_recorded_step(posix_file_system(), out_ + "/metrics.jsonl"), Step(6));
}

TEST_F(AgentTest, AnotherJobIsRefusedForGood) {
  MiniCoordinator coordinator(hashed(), kJob);
  job_.train.seed = 99;
  const auto agent = started(options(coordinator.port()));
  ASSERT_TRUE(agent);
  const WorkerOutcome outcome = agent->wait();
  EXPECT_FALSE(outcome.success);
  EXPECT_TRUE(outcome.permanent);
  EXPECT_THAT(outcome.reason, ::testing::HasSubstr("job differs"));
}

TEST_F(AgentTest, ADrainedAgentLeavesAndTheOtherFinishes) {
  job_.train.steps = 100;
  MiniCoordinator coordinator(hashed(), kJob);
  const auto first = started(options(coordinator.port()));
  auto second = started(options(coordinator.port()));
  ASSERT_TRUE(first && second);
  await_first_commit();
  second->drain("the test says so");
  const WorkerOutcome outcome = second->wait();
  second.reset();
  EXPECT_TRUE(outcome.success) << outcome.reason;
  EXPECT_TRUE(first->wait().success);
  ASSERT_TRUE(coordinator.result().has_value()) << coordinator.story();
  EXPECT_EQ(coordinator.result()->weights, bare_weights());
}

TEST_F(AgentTest, AnAgentThatIsDestroyedMidwayIsReplacedByTheOther) {
  job_.train.steps = 100;
  JobSpec job = hashed();
  job.cluster.suspect_grace_ms = 40;
  MiniCoordinator coordinator(job, kJob);
  const auto first = started(options(coordinator.port()));
  auto second = started(options(coordinator.port()));
  ASSERT_TRUE(first && second);
  await_first_commit();
  second.reset();
  EXPECT_TRUE(first->wait().success);
  ASSERT_TRUE(coordinator.result().has_value()) << coordinator.story();
  EXPECT_EQ(coordinator.result()->weights, bare_weights());
}

}  // namespace
}  // namespace planaria
