#include "coordinator/shell/service.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "coordinator/core/coordinator_core.hpp"
#include "coordinator/log/event_log.hpp"
#include "coordinator/shell/barrier_queue.hpp"
#include "coordinator/shell/status_builder.hpp"
#include "tests/coordinator/fake_worker.hpp"
#include "tests/coordinator/final_weights.hpp"
#include "tests/coordinator/raw_socket.hpp"
#include "tests/sanitized.hpp"
#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

JobSpec small_job() {
  JobSpec job;
  job.name = "small";
  job.model.layers = 1;
  job.model.heads = 1;
  job.model.width = 16;
  job.model.ffn_width = 32;
  job.model.context = 8;
  job.train.steps = 3;
  job.train.tile_elements = 64;
  job.batch = {4, 2, 4};
  job.cluster.workers = 1;
  job.cluster.lease_ms = 20'000;  // the tests' workers send no heartbeats
  job.data.content_hash = {5, 6};
  return job;
}

// A worker that plays its part of the protocol as far as the coordinator sees it.
class Member : public FakeWorker {
 public:
  explicit Member(std::uint16_t port) : FakeWorker(port) {}

  void enroll(const JobSpec& job, std::optional<Identity> identity = {}) {
    Register message;
    message.job = job_hash(job);
    message.numeric_class = "test";
    message.host = "here";
    message.identity = identity;
    if (identity) message.holdings.states = {{Step(0), {{0, 1}}, {}, {}}};
    send(message);
    const auto welcome = await<Welcome>();
    ASSERT_TRUE(welcome);
    worker = welcome->worker;
    incarnation = welcome->incarnation;
  }
  // Answers a Prepare and takes the view.
  void enter_view() {
    const auto prepare = await<Prepare>();
    ASSERT_TRUE(prepare);
    Report report;
    report.prepare = prepare->view;
    send(report);
    const auto commit = await<CommitView>();
    ASSERT_TRUE(commit);
    view = commit->packed->view;
  }
  void commit_step(std::uint64_t number) {
    StepCommitted commit;
    commit.view = view;
    commit.step = Step(number);
    commit.loss = 3.0 / static_cast<double>(number);
    commit.micro_batches_computed = 4;
    send(commit);
  }
  void finish(std::uint64_t number) { send(Done{view, Step(number), all_weights(small_job()), 1.0, 1.5}); }

  ViewNumber view;
};

class Service : public testing::Test {
 protected:
  void start() {
    auto started = CoordinatorService::start({job_, directory_.path()});
    ASSERT_TRUE(started) << started.error().message();
    service_ = std::move(*started);
  }
  std::string http(const std::string& request) const {
    const RawSocket client(service_->ports().http);
    client.send(request);
    return client.receive_all();
  }
  // The status, once it is as wished; the loop publishes at intervals.
  nlohmann::json status_when(const std::function<bool(const nlohmann::json&)>& wished) const {
    const RawSocket client(service_->ports().http);
    client.send("GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n");
    std::string text;
    for (auto part = client.receive(); !part.empty(); part = client.receive()) {
      text += part;
      for (std::size_t end = text.find("\n\n"); end != std::string::npos; end = text.find("\n\n")) {
        const auto frame = text.substr(0, end);
        text.erase(0, end + 2);
        const auto data = frame.find("data: ");
        if (data == std::string::npos) continue;
        auto status = nlohmann::json::parse(frame.substr(data + 6));
        if (wished(status)) return status;
      }
    }
    ADD_FAILURE() << "the status never became as wished";
    return {};
  }

  JobSpec job_ = small_job();
  TemporaryDirectory directory_;
  std::unique_ptr<CoordinatorService> service_;
};

TEST_F(Service, RunsAJobToItsEndAndTheLogTellsEverySampleOnce) {
  start();
  Member member(service_->ports().control);
  member.enroll(job_);
  member.enter_view();
  for (const std::uint64_t step : {1, 2, 3}) member.commit_step(step);
  member.finish(3);
  const auto finish = member.await<Finish>();
  ASSERT_TRUE(finish);
  EXPECT_TRUE(finish->success) << finish->reason;
  const auto outcome = service_->wait();
  EXPECT_TRUE(outcome.finished && outcome.success);
  EXPECT_EQ(outcome.status->weights, hash_of_all_weights(job_));
  EXPECT_EQ(outcome.status->sequences_used, 24U);
  EXPECT_EQ(outcome.status->micro_batches_computed, 12U);
  const auto contents = read_log(directory_.path() + "/coordinator");
  ASSERT_TRUE(contents) << contents.error().message();
  std::vector<std::uint64_t> steps;
  for (const auto& entry : contents->entries) {
    if (const auto* step = std::get_if<log_record::StepLogged>(&entry.record)) steps.push_back(step->step.value());
  }
  EXPECT_EQ(steps, (std::vector<std::uint64_t>{1, 2, 3}));
}

TEST_F(Service, GoesOnWhereItWasAfterARestart) {
  start();
  const auto ports = service_->ports();
  Identity identity;
  {
    Member member(ports.control);
    member.enroll(job_);
    member.enter_view();
    member.commit_step(1);
    identity = {member.worker, member.incarnation, member.view, member.view};
    status_when([](const auto& status) { return status["step"] == 1; });
    service_.reset();
  }
  start();
  EXPECT_EQ(service_->ports().control, ports.control);
  EXPECT_EQ(service_->ports().http, ports.http);
  EXPECT_EQ(service_->ports().telemetry, ports.telemetry);
  Member member(ports.control);
  member.enroll(job_, identity);
  EXPECT_EQ(member.incarnation, identity.incarnation);
  const auto commit = member.receive();
  ASSERT_TRUE(commit);
  EXPECT_EQ(commit->generation, Generation(2));
  const auto status = status_when([](const auto& s) { return s["generation"] == 2 && s["workers"][0]["connected"]; });
  EXPECT_EQ(status["steps_committed"], 1);
  EXPECT_EQ(status["point"]["loss"], 3.0);
}

TEST_F(Service, WhatIsUnknownAfterARestartIsNull) {
  start();
  {
    Member member(service_->ports().control);
    member.enroll(job_);
    member.enter_view();
    member.commit_step(1);
    const auto live = status_when([](const auto& status) { return status["step"] == 1; });
    EXPECT_TRUE(live["learning_rate"].is_number());
    service_.reset();
  }
  start();
  const auto status = status_when([](const auto& s) { return s["generation"] == 2; });
  EXPECT_EQ(status["loss"], 3.0);
  EXPECT_TRUE(status["learning_rate"].is_null() && status["gradient_norm"].is_null());
  EXPECT_TRUE(status["point"]["learning_rate"].is_null());
}

TEST_F(Service, AFinishedJobStartedAgainTellsItsResultAndEndsSoon) {
  start();
  {
    Member member(service_->ports().control);
    member.enroll(job_);
    member.enter_view();
    for (const std::uint64_t step : {1, 2, 3}) member.commit_step(step);
    member.finish(3);
    ASSERT_TRUE(member.await<Finish>());
  }
  const auto first = service_->wait();
  service_.reset();
  start();
  FakeWorker fresh(service_->ports().control);
  Register message;
  message.job = job_hash(job_);
  message.numeric_class = "test";
  fresh.send(message);
  EXPECT_TRUE(fresh.await<Finish>());
  const auto again = service_->wait();
  ASSERT_TRUE(again.finished);
  EXPECT_TRUE(first.status->final_loss);
  EXPECT_EQ(again.status->final_loss, first.status->final_loss);
  EXPECT_EQ(again.status->final_validation_loss, first.status->final_validation_loss);
}

TEST_F(Service, GivesTheJobToWorkersThatAsk) {
  start();
  FakeWorker worker(service_->ports().control);
  worker.send(Register{});
  const auto welcome = worker.await<Welcome>();
  ASSERT_TRUE(welcome);
  EXPECT_THAT(welcome->job_toml, HasSubstr("name = \"small\""));
  EXPECT_THAT(welcome->job_toml, HasSubstr("telemetry_port = " + std::to_string(service_->ports().telemetry)));
  EXPECT_NE(welcome->job_key, 0U);
}

TEST_F(Service, StoppingItLeavesTheJobAlone) {
  start();
  Member member(service_->ports().control);
  member.enroll(job_);
  member.enter_view();
  service_->stop();
  EXPECT_FALSE(service_->wait().finished);
  service_.reset();
  EXPECT_FALSE(member.receive(milliseconds(50)));
}

TEST_F(Service, StoppingTheJobTellsTheWorkers) {
  start();
  Member member(service_->ports().control);
  member.enroll(job_);
  EXPECT_THAT(http("POST /v1/stop HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                   "Content-Length: 22\r\n\r\n{\"reason\": \"enough\"}  "),
              HasSubstr("202 Accepted"));
  const auto finish = member.await<Finish>();
  ASSERT_TRUE(finish);
  EXPECT_FALSE(finish->success);
  EXPECT_EQ(finish->reason, "stopped by an operator: enough");
  const auto outcome = service_->wait();
  EXPECT_TRUE(outcome.finished);
  EXPECT_FALSE(outcome.success);
  EXPECT_TRUE(outcome.stopped);
  EXPECT_EQ(outcome.status->status, "stopped");
  EXPECT_FALSE(service_->stop_job("again"));
}

TEST_F(Service, DrainsOnlyWorkersThatAreThere) {
  start();
  const auto refused = service_->drain(WorkerId(7), "night");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), ErrorCode::not_found);
  Member member(service_->ports().control);
  member.enroll(job_);
  member.enter_view();
  status_when([](const auto& status) { return status["workers"].size() == 1; });
  EXPECT_TRUE(service_->drain(member.worker, "night"));
  status_when([](const auto& status) { return status["workers"][0]["status"] == "draining"; });
}

TEST_F(Service, LogsAndShowsInjectedFaultsOnce) {
  start();
  const std::string body = R"({"number": 3, "kind": "kill", "step": 5, "phase": "backward", "worker": 1})";
  for (int i = 0; i < 2; ++i) {  // the second tells the same fault again
    const RawSocket socket(service_->ports().http);
    socket.send("POST /v1/faults HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " +
                std::to_string(body.size()) + "\r\n\r\n" + body);
    EXPECT_THAT(socket.receive(), HasSubstr("202"));
  }
  const auto status = status_when([](const auto& s) { return !s["faults"].empty(); });
  EXPECT_EQ(status["faults"].size(), 1U);
  EXPECT_EQ(status["faults"][0]["kind"], "kill");
  const auto log = read_log(directory_.path() + "/coordinator");
  ASSERT_TRUE(log) << log.error().describe();
  EXPECT_EQ(std::ranges::count_if(
                log->entries,
                [](const LogEntry& entry) { return std::holds_alternative<log_record::FaultFired>(entry.record); }),
            1);
}

TEST_F(Service, TellsToolsWhereItListens) {
  start();
  std::ifstream file(directory_.path() + "/coordinator.json");
  const auto ports = nlohmann::json::parse(file);
  EXPECT_EQ(ports["http_port"], service_->ports().http);
  EXPECT_EQ(ports["control_port"], service_->ports().control);
}

// The first byte of what a stranger announces: 2^30 bytes, or what a sanitizer's machine bears.
constexpr char kAnnounced = kSanitized ? 0x02 : 0x40;

// CAF clears as many bytes as a header announces, on the thread that hears all workers.
TEST_F(Service, AStrangerThatHoldsUpTheNetworkThreadCostsNoWorkerItsLease) {
  job_.cluster.heartbeat_ms = 20;
  job_.cluster.lease_ms = 100;
  job_.cluster.suspect_grace_ms = 40;
  start();
  const auto port = service_->ports().control;
  Member member(port);
  member.enroll(job_);
  member.enter_view();
  std::string header(32, '\0');
  header[0] = 1;  // a client's handshake
  header[4] = kAnnounced;
  std::vector<std::unique_ptr<RawSocket>> strangers;
  for (int beat = 0; beat < 50; ++beat) {
    if (beat % 10 == 5) {
      strangers.push_back(std::make_unique<RawSocket>(port));
      strangers.back()->send(header);
    }
    Heartbeat heartbeat;
    heartbeat.view = member.view;
    heartbeat.step = Step(1);
    heartbeat.progress = static_cast<std::uint64_t>(beat);
    member.send(heartbeat);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (beat % 10 == 9) strangers.clear();
  }
  const auto status = status_when([](const auto& s) { return s["workers"].size() == 1; });
  EXPECT_EQ(status["workers"][0]["status"], "member");
  EXPECT_EQ(status["views"], 1);
}

TEST_F(Service, RandomBytesOnEveryPortDoNoHarm) {
  start();
  const auto ports = service_->ports();
  std::uint32_t seed = 0;
  for (const auto port : {ports.control, ports.http, ports.telemetry, ports.telemetry_publish}) {
    const RawSocket socket(port);
    socket.send_random(++seed, 50'000);
    EXPECT_TRUE(socket.closed_by_peer()) << port;
  }
  Member member(ports.control);
  member.enroll(job_);
  member.enter_view();
  EXPECT_THAT(http("GET /healthz HTTP/1.0\r\n\r\n"), HasSubstr("200 OK"));
}

TEST_F(Service, AnotherJobsDirectoryIsRefused) {
  start();
  service_.reset();
  job_.train.seed += 1;
  const auto started = CoordinatorService::start({job_, directory_.path()});
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code(), ErrorCode::mismatch);
  EXPECT_THAT(started.error().message(), HasSubstr("another job"));
}

TEST_F(Service, ADirectoryInUseIsRefused) {
  start();
  const auto second = CoordinatorService::start({job_, directory_.path()});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), ErrorCode::unavailable);
}

TEST_F(Service, AConfiguredPortThatIsBusyIsAnError) {
  start();
  const TemporaryDirectory other;
  job_.cluster.http_port = service_->ports().http;
  const auto second = CoordinatorService::start({job_, other.path()});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), ErrorCode::unavailable);
  EXPECT_THAT(second.error().message(), HasSubstr("cluster.http_port"));
}

TEST(BarrierQueue, NothingOvertakesTheRecordAheadOfIt) {
  BarrierQueue<int> queue;
  std::vector<int> left;
  const auto take = [&](int item) { left.push_back(item); };
  queue.push(1);
  queue.wait_for(5);
  queue.push(2);
  queue.wait_for(6);
  queue.push(3);
  queue.release(take);
  EXPECT_EQ(left, (std::vector<int>{1}));
  queue.durable(5);
  queue.push(4);
  queue.release(take);
  EXPECT_EQ(left, (std::vector<int>{1, 2}));
  queue.durable(7);
  queue.release(take);
  EXPECT_EQ(left, (std::vector<int>{1, 2, 3, 4}));
}

TEST(RecoveryTimes, RunFromTheEvidenceAndLeaveOutOtherHostsClocks) {
  RecoveryRecord record;
  record.lost_slots = 2;
  record.evidence_at = Instant{1'000'000};
  record.declared_at = Instant{3'000'000};
  record.committed_at = Instant{4'000'000};
  record.first_slot_started = Instant{9'000'000};
  record.last_slot_done = Instant{19'000'000};
  record.step_committed_at = Instant{25'000'000};
  const auto row = recovery_row(record, Instant{30'000'000});
  EXPECT_EQ(row.phase_ms.detect, 2.0);
  EXPECT_EQ(row.phase_ms.decide, 1.0);
  EXPECT_EQ(row.phase_ms.move, 5.0);
  EXPECT_EQ(row.phase_ms.recompute, 10.0);
  EXPECT_EQ(row.phase_ms.total, 18.0);
  EXPECT_EQ(row.phase_ms.commit, 24.0);
  record.first_slot_started = Instant{999'000'000'000};
  EXPECT_FALSE(recovery_row(record, Instant{30'000'000}).phase_ms.move);
}

TEST(StatusBuilder, ThinsALongLossCurveAndKeepsItsEnds) {
  StatusBuilder builder(small_job(), {}, 10, Instant{0});
  std::vector<LogEntry> entries(10'001);
  for (std::uint64_t i = 1; i <= entries.size(); ++i) {
    entries[i - 1].record.emplace<log_record::StepLogged>(ViewNumber(1), Step(i), 1.0);
  }
  builder.replay(entries);
  CoordinatorCore core(CoordinatorCoreConfig{.job = small_job()});
  const auto snapshot = builder.build(core, nullptr, 0, Instant{1});
  EXPECT_LE(snapshot->history.size(), StatusBuilder::kMaxHistory);
  EXPECT_GE(snapshot->history.size(), StatusBuilder::kMaxHistory / 4);
  EXPECT_LE(snapshot->history.front().step, Step(8));
  EXPECT_EQ(snapshot->history.back().step, Step(10'001));
}

}  // namespace
}  // namespace planaria
