#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "coordinator/http/http_server.hpp"
#include "coordinator/http/routes.hpp"
#include "coordinator/http/status.hpp"
#include "tests/coordinator/raw_socket.hpp"

namespace planaria {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

StatusSnapshot sample_status() {
  StatusSnapshot s;
  s.serial = 7;
  s.job_name = "tiny \"job\"";
  s.job_hash = {1, 2};
  s.status = "training";
  s.view = ViewNumber(3);
  s.step = Step(41);
  s.total_steps = 100;
  s.loss = 2.5;
  s.steps_committed = 41;
  s.sequences_used = 41 * 32;
  WorkerStatusRow worker;
  worker.worker = WorkerId(2);
  worker.status = "member";
  worker.member = true;
  worker.host = "bad\xff host\n\"";
  worker.work = {{2, 5}, {8, 16}};
  worker.lease_left_ms = 950;
  worker.copying = StateCopyingRow{.copies = 40, .copied_bytes = 4000, .trainer_s = 0.25};
  WorkerStatusRow keeper;
  keeper.worker = WorkerId(1000);
  keeper.role = Role::keeper;
  keeper.host = "h";
  keeper.keeping = StateKeepingRow{.memory_bytes = 300, .memory_bound_bytes = 500, .damaged_tiles = 1};
  s.workers = {worker, keeper};
  s.snapshots = SnapshotStatus{.every_steps = 2, .complete = Step(40), .tolerated = 1};
  RecoveryRow recovery;
  recovery.cause = "worker 1 lost";
  recovery.victims = {WorkerId(1)};
  recovery.at_step = Step(12);
  recovery.lost_slots = 4;
  recovery.lost_work = 1.5;
  recovery.own_work = 2.5;
  recovery.phase_ms.detect = 3.5;
  s.recoveries = {recovery};
  s.history = {{Step(40), 2.6, {}, {}, {}}, {Step(41), 2.5, 2.7, {}, {}}};
  return s;
}

// What the controls were asked.
struct Asked {
  std::vector<std::string> calls;
  HttpControls controls() {
    HttpControls controls;
    controls.events = [this](std::uint64_t after, std::size_t limit, bool steps) -> Result<LogPage> {
      calls.push_back("events " + std::to_string(after) + " " + std::to_string(limit) + (steps ? " steps" : ""));
      return LogPage{{{after + 1, 5, log_record::Prepared{ViewNumber(9), {WorkerId(1)}, "lost"}}}, after + 1};
    };
    controls.drain = [this](WorkerId worker, const std::string& reason) -> Status {
      calls.push_back("drain " + std::to_string(worker.value()) + " " + reason);
      if (worker == WorkerId(99)) return Error(ErrorCode::not_found, "no worker 99 is at work");
      return ok_status();
    };
    controls.stop = [this](const std::string& reason) -> Status {
      calls.push_back("stop " + reason);
      return ok_status();
    };
    controls.fault = [this](const log_record::FaultFired& fault) -> Status {
      calls.push_back(describe(fault));
      return ok_status();
    };
    return controls;
  }
};

class Routes : public testing::Test {
 protected:
  HttpReply get(const std::string& target) { return ask({.method = "GET", .target = target, .host = "localhost:80"}); }
  HttpReply ask(const HttpRequest& request) { return route(request, sample_status(), asked_.controls(), policy_); }
  HttpRequest post(const std::string& target) {
    return {.method = "POST",
            .target = target,
            .host = "127.0.0.1:8080",
            .origin = "http://127.0.0.1:8080",
            .content_type = "application/json; charset=utf-8",
            .body = R"({"reason": "night"})"};
  }

  Asked asked_;
  HttpPolicy policy_{false, {"trainer"}};
};

TEST_F(Routes, StatusHoldsTheNamesThatToolsRelyOn) {
  const auto reply = get("/v1/status");
  EXPECT_EQ(reply.status, 200U);
  const auto status = json::parse(reply.body);
  EXPECT_EQ(status["step"], 41);
  EXPECT_EQ(status["sequences_used"], 1312);
  EXPECT_EQ(status["job_hash"], "00000000000000010000000000000002");
  EXPECT_EQ(status["val_loss"], nullptr);
  EXPECT_EQ(status["workers"][0]["blocks"], json({2, 5}));
  EXPECT_EQ(status["workers"][0]["slots"], json({8, 16}));
  EXPECT_EQ(status["workers"][0]["copying"]["trainer_s"], 0.25);
  EXPECT_EQ(status["workers"][0]["keeping"], nullptr);
  EXPECT_EQ(status["workers"][1]["keeping"]["memory_bytes"], 300);
  EXPECT_EQ(status["recoveries"][0]["lost_work"], 1.5);
  EXPECT_EQ(status["recoveries"][0]["own_work"], 2.5);
  EXPECT_EQ(status["recoveries"][0]["phase_ms"]["detect"], 3.5);
  EXPECT_EQ(status["recoveries"][0]["phase_ms"]["move"], nullptr);
  EXPECT_EQ(status["history"].size(), 2U);
}

TEST_F(Routes, TheBriefStatusHasOnePointInsteadOfTheHistory) {
  const auto status = status_json(sample_status(), StatusDetail::brief);
  EXPECT_FALSE(status.contains("history"));
  EXPECT_EQ(status["point"]["val_loss"], 2.7);
}

TEST_F(Routes, NumbersThatAreNoNumbersBecomeNull) {
  auto s = sample_status();
  s.loss = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(json::parse(to_text(status_json(s)))["loss"], nullptr);
  EXPECT_THAT(metrics_text(s), HasSubstr("planaria_loss NaN\n"));
}

TEST_F(Routes, MetricsEscapeLabelsAndSkipWhatIsUnknown) {
  const auto reply = get("/metrics");
  EXPECT_THAT(reply.content_type, StartsWith("text/plain; version=0.0.4"));
  EXPECT_THAT(reply.body, HasSubstr("planaria_info{job=\"tiny \\\"job\\\"\""));
  EXPECT_THAT(reply.body, HasSubstr("planaria_status{status=\"training\"} 1\n"));
  EXPECT_THAT(reply.body,
              HasSubstr("planaria_worker_lease_left_seconds{worker=\"2\",host=\"bad\xff host\\n\\\"\"} 0.95"));
  EXPECT_THAT(reply.body, Not(HasSubstr("validation_loss")));
  EXPECT_THAT(reply.body, Not(HasSubstr("snapshot_overhead_ratio")));
}

TEST_F(Routes, MetricsTellOfSnapshots) {
  const std::string text = metrics_text(sample_status());
  EXPECT_THAT(text, HasSubstr("planaria_snapshot_complete_step 40\n"));
  EXPECT_THAT(text, HasSubstr("planaria_snapshot_tolerated_hosts 1\n"));
  EXPECT_THAT(text, HasSubstr("planaria_keeper_memory_bytes{worker=\"1000\",host=\"h\"} 300\n"));
  EXPECT_THAT(text, HasSubstr("planaria_keeper_damaged_tiles_total{worker=\"1000\",host=\"h\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("planaria_snapshot_copied_bytes_total{worker=\"2\""));
  EXPECT_THAT(text, Not(HasSubstr("planaria_keeper_memory_bytes{worker=\"2\"")));
}

TEST_F(Routes, HealthTurnsBadWhileDecisionsCannotBeLogged) {
  EXPECT_EQ(get("/healthz").status, 200U);
  auto s = sample_status();
  s.log_error = "disk full";
  const auto reply = route({.method = "GET", .target = "/healthz"}, s, {}, {});
  EXPECT_EQ(reply.status, 503U);
  EXPECT_EQ(json::parse(reply.body)["reason"], "disk full");
}

TEST_F(Routes, EventsArePaged) {
  const auto page = json::parse(get("/v1/events?after=4&limit=10&steps=1").body);
  EXPECT_EQ(asked_.calls.back(), "events 4 10 steps");
  EXPECT_EQ(page["next"], 5);
  EXPECT_EQ(page["events"][0]["view"], 9);
  EXPECT_EQ(page["events"][0]["excluded"], json({1}));
}

TEST_F(Routes, WrongQueriesAreToldWhatIsAllowed) {
  for (const auto* query : {"?after=-1", "?after=x", "?limit=0", "?limit=100000", "?steps=2", "?other=1", "?after"}) {
    const auto reply = get(std::string("/v1/events") + query);
    EXPECT_EQ(reply.status, 400U) << query;
    EXPECT_TRUE(json::parse(reply.body)["error"]["message"].is_string());
  }
  EXPECT_TRUE(asked_.calls.empty());
}

TEST_F(Routes, UnknownPathsAndMethodsAreRefused) {
  EXPECT_EQ(get("/v1/nothing").status, 404U);
  EXPECT_EQ(get("/v1/workers//drain").status, 404U);
  EXPECT_EQ(get("").status, 404U);
  const auto reply = get("/v1/stop");
  EXPECT_EQ(reply.status, 405U);
  EXPECT_EQ(reply.headers[0].second, "POST");
  EXPECT_EQ(ask({.method = "DELETE", .target = "/v1/status"}).status, 405U);
}

TEST_F(Routes, PostsSteerTheJob) {
  EXPECT_EQ(ask(post("/v1/workers/4/drain")).status, 202U);
  EXPECT_EQ(ask(post("/v1/stop")).status, 202U);
  auto bare = post("/v1/stop");
  bare.body = "";
  bare.origin = "";
  bare.host = "trainer";
  EXPECT_EQ(ask(bare).status, 202U);
  EXPECT_THAT(asked_.calls, testing::ElementsAre("drain 4 night", "stop night", "stop asked for over HTTP"));
}

TEST_F(Routes, InjectedFaultsAreToldByNumber) {
  auto request = post("/v1/faults");
  request.body = R"({"number": 2, "kind": "kill", "step": 7, "phase": "gate", "worker": 0})";
  EXPECT_EQ(ask(request).status, 202U);
  request.body = R"({"number": 3, "kind": "join", "step": null, "phase": null, "worker": null})";
  EXPECT_EQ(ask(request).status, 202U);
  EXPECT_THAT(asked_.calls, testing::ElementsAre("fault: kill worker 0 at step 7, gate", "fault: join"));
  for (const char* bad :
       {"", "[]", "{}", R"({"kind": "kill"})", R"({"number": 1})", R"({"number": -1, "kind": "kill"})",
        R"({"number": 4294967296, "kind": "kill"})", R"({"number": 1, "kind": null})",
        R"({"number": 1, "kind": "kill", "other": null})", R"({"number": 1, "kind": "kill", "step": 1.5})",
        R"({"number": 1, "kind": "a word that is longer than words are here"})"}) {
    request.body = bad;
    EXPECT_EQ(ask(request).status, 400U) << bad;
  }
  EXPECT_EQ(asked_.calls.size(), 2U);
}

TEST_F(Routes, AnUnknownWorkerIsNotFound) {
  EXPECT_EQ(ask(post("/v1/workers/99/drain")).status, 404U);
  EXPECT_EQ(ask(post("/v1/workers/x/drain")).status, 404U);
  EXPECT_EQ(ask(post("/v1/workers/4294967296/drain")).status, 404U);
}

TEST_F(Routes, AnotherSitesPageCannotSteer) {
  auto crossing = post("/v1/stop");
  crossing.origin = "http://evil.example";
  EXPECT_EQ(ask(crossing).status, 403U);
  auto rebound = post("/v1/stop");
  rebound.host = "evil.example:8080";
  rebound.origin = "http://evil.example:8080";
  EXPECT_EQ(ask(rebound).status, 403U);
  auto form = post("/v1/stop");
  form.content_type = "text/plain";
  EXPECT_EQ(ask(form).status, 415U);
  auto nameless = post("/v1/stop");
  nameless.host = "";
  EXPECT_EQ(ask(nameless).status, 403U);
  EXPECT_TRUE(asked_.calls.empty());
}

TEST_F(Routes, OtherMachinesSteerOnlyWhenTheOperatorSaidSo) {
  auto remote = post("/v1/stop");
  remote.from_loopback = false;
  EXPECT_EQ(ask(remote).status, 403U);
  policy_.insecure = true;
  EXPECT_EQ(ask(remote).status, 202U);
}

TEST_F(Routes, BodiesThatAreNoReasonAreRefused) {
  for (const auto* body : {"{", "[]", "null", R"({"reason": 1})", R"({"why": "x"})", R"({"reason": "x"} x)"}) {
    auto request = post("/v1/stop");
    request.body = body;
    EXPECT_EQ(ask(request).status, 400U) << body;
  }
  auto deep = post("/v1/stop");
  deep.body = std::string(kMaxHttpBody, '[');
  EXPECT_EQ(ask(deep).status, 400U);
}

TEST_F(Routes, ThePageIsSelfContained) {
  const auto reply = get("/");
  EXPECT_THAT(reply.content_type, StartsWith("text/html"));
  EXPECT_THAT(reply.body, StartsWith("<!doctype html>"));
  EXPECT_THAT(reply.body, Not(HasSubstr("src=\"http")));
  EXPECT_EQ(reply.headers[0].first, "Content-Security-Policy");
}

class Server : public testing::Test {
 protected:
  void start(HttpServerOptions options = {}) {
    auto started = HttpServer::start(options, asked_.controls(), std::make_shared<StatusSnapshot>(sample_status()));
    ASSERT_TRUE(started) << started.error().message();
    server_ = std::move(*started);
  }
  // The whole answer to bytes that end with their connection.
  std::string answer(const std::string& bytes) {
    const RawSocket client(server_->port());
    client.send(bytes);
    return client.receive_all();
  }

  Asked asked_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(Server, AnswersSeveralRequestsOfOneConnection) {
  start();
  const RawSocket client(server_->port());
  for (int i = 0; i < 3; ++i) {
    client.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_THAT(client.receive_until("\"training\"}\n"), HasSubstr("200 OK"));
  }
}

TEST_F(Server, HeadHasTheLengthAndNoBody) {
  start();
  const auto reply = answer("HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  EXPECT_THAT(reply, HasSubstr("Content-Length: 37"));
  EXPECT_TRUE(reply.ends_with("\r\n\r\n"));
}

TEST_F(Server, ShowsWhatIsPublished) {
  start();
  auto next = std::make_shared<StatusSnapshot>(sample_status());
  next->step = Step(77);
  server_->publish(next);
  EXPECT_THAT(answer("GET /v1/status HTTP/1.0\r\n\r\n"), HasSubstr("\"step\":77"));
}

TEST_F(Server, StreamsChangesAndLeavesWithTheClient) {
  start({.stream_interval = std::chrono::milliseconds(1)});
  const RawSocket client(server_->port());
  client.send("GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_THAT(client.receive_until("}\n\n"), HasSubstr("event: status\nid: 7\ndata: {"));
  auto next = std::make_shared<StatusSnapshot>(sample_status());
  next->serial = 8;
  server_->publish(next);
  EXPECT_THAT(client.receive_until("}\n\n"), HasSubstr("id: 8\n"));
}

TEST_F(Server, WhatIsNotHttpIsToldSo) {
  start();
  EXPECT_THAT(answer("hello\r\n\r\n"), HasSubstr("400 Bad Request"));
  EXPECT_THAT(answer("GET / HTTP/9.9\r\n\r\n"), HasSubstr("\"error\""));
  EXPECT_THAT(answer("GET /" + std::string(20'000, 'x') + " HTTP/1.1\r\n\r\n"), HasSubstr("431 "));
  EXPECT_THAT(answer("POST /v1/stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\n"), HasSubstr("413 "));
}

TEST_F(Server, RandomBytesDoNoHarm) {
  start();
  for (const auto seed : {11U, 12U, 13U}) {
    const RawSocket client(server_->port());
    client.send_random(seed, 256 * 1024);
    EXPECT_TRUE(client.closed_by_peer()) << "seed " << seed;
  }
  EXPECT_THAT(answer("GET /healthz HTTP/1.0\r\n\r\n"), HasSubstr("200 OK"));
}

TEST_F(Server, ASlowRequestIsCutOff) {
  start({.request_timeout = std::chrono::milliseconds(100)});
  const RawSocket client(server_->port());
  client.send("GET /healthz HTTP/1.1\r\nHost:");
  EXPECT_TRUE(client.closed_by_peer(5000));
}

TEST_F(Server, ABusyPortIsToldWithTheKeyToChange) {
  start();
  const auto second = HttpServer::start({.port = server_->port()}, {}, std::make_shared<StatusSnapshot>());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code(), ErrorCode::unavailable);
  EXPECT_THAT(second.error().message(), HasSubstr("cluster.http_port"));
}

}  // namespace
}  // namespace planaria
