#include "proto/job_config.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "common/codec.hpp"

namespace planaria {
namespace {

using testing::HasSubstr;

constexpr std::string_view kSmall = "[data]\npath = \"/text\"\n";

JobSpec small_job() {
  auto job = parse_job(kSmall, "small.toml");
  EXPECT_TRUE(job) << job.error().describe();
  return *job;
}

std::string problem(const std::function<void(JobSpec&)>& change) {
  JobSpec job = small_job();
  change(job);
  const Status status = validate(job);
  return status ? "none" : status.error().message();
}

TEST(JobConfig, DefaultsAreAValidJob) {
  const JobSpec job = small_job();
  EXPECT_EQ(job.data.path, "/text");
  EXPECT_EQ(job.model.layers, 6U);
  EXPECT_TRUE(validate(job));
}

TEST(JobConfig, KeysThatFollowFromOthersAreDerived) {
  const auto job = parse_job(
      "[data]\npath = \"/t\"\n[model]\nheads = 4\nwidth = 128\n[batch]\nmicro_batches = 48\n[optimizer]\n"
      "learning_rate = 1e-5\n[train]\nsteps = 20\n[cluster]\nworkers = 1\n",
      "a.toml");
  ASSERT_TRUE(job) << job.error().describe();
  EXPECT_EQ(job->model.kv_heads, 4U);
  EXPECT_EQ(job->model.ffn_width, 512U);
  EXPECT_EQ(job->batch.slots, 16U);
  EXPECT_DOUBLE_EQ(job->optimizer.min_learning_rate, 1e-6);
  EXPECT_EQ(job->optimizer.warmup_steps, 2U);
  const auto llama = parse_job("[data]\npath = \"/t\"\n[model]\nfamily = \"llama\"\n", "a.toml");
  ASSERT_TRUE(llama) << llama.error().describe();
  EXPECT_EQ(llama->model.ffn_width, 1024U);
}

TEST(JobConfig, AFlagWinsOverAVariableWhichWinsOverTheFile) {
  const std::vector<std::string> flags{"train.steps=7"};
  const Environment env{{"PLANARIA_TRAIN_STEPS", "6"}, {"PLANARIA_CLUSTER_LEASE_MS", "600"}};
  const auto job = parse_job("[data]\npath = \"/t\"\n[train]\nsteps = 5\n", "a.toml", flags, env);
  ASSERT_TRUE(job) << job.error().describe();
  EXPECT_EQ(job->train.steps, 7U);
  EXPECT_EQ(job->cluster.lease_ms, 600U);
}

TEST(JobConfig, UnknownKeysAreRefusedWithASuggestion) {
  const auto job = parse_job("[data]\npath = \"/t\"\n[model]\nlayer = 5\n", "a.toml");
  ASSERT_FALSE(job);
  EXPECT_EQ(job.error().message(), "a.toml:4: model.layer: unknown key; did you mean \"layers\"?");
}

TEST(JobConfig, ContradictionsNameTheFile) {
  const auto job = parse_job("[model]\nwidth = 100\nheads = 3\n", "a.toml");
  ASSERT_FALSE(job);
  EXPECT_THAT(job.error().message(), HasSubstr("a.toml"));
  EXPECT_THAT(job.error().message(), HasSubstr("data.path is missing"));
  EXPECT_THAT(job.error().message(), HasSubstr("model.width = 100 is not a multiple of model.heads = 3"));
}

TEST(JobConfig, WritingAndReadingGivesTheSameJobButForSecrets) {
  JobSpec job = small_job();
  job.data.path = "/a \"b\" \\ c";
  job.model.norm_epsilon = 1.0 / 3.0 * 1e-5;
  job.optimizer.schedule = ScheduleKind::wsd;
  job.optimizer.learning_rate = 0.1 + 0.2;
  job.data.content_hash = {1, 2};
  job.pretrained = {"/weights", {3, 4}};
  job.cluster.heartbeat_ms = 33;
  job.train.seed = INT64_MAX;
  job.security.join_token = "secret";
  const std::string text = job_to_toml(job);
  EXPECT_EQ(text.find("secret"), std::string::npos);
  const auto read = parse_job(text, "written.toml");
  ASSERT_TRUE(read) << read.error().describe();
  job.security.join_token.clear();
  EXPECT_EQ(encode(*read), encode(job));
}

TEST(JobConfig, ShippedJobsLoad) {
  for (const char* file : {"examples/quickstart.toml", "examples/gpt_11m.toml", "tests/jobs/tiny.toml"}) {
    const auto job = load_job(std::string(PLANARIA_SOURCE_DIR "/") + file);
    EXPECT_TRUE(job) << job.error().describe();
  }
}

TEST(PipelineDepths, AreNumbersOfStagesJoinedByPlus) {
  EXPECT_EQ(pipeline_depths("2+1+30").value(), (std::vector<std::uint32_t>{2, 1, 30}));
  EXPECT_TRUE(pipeline_depths("").value().empty());
  for (const char* form : {"0", "2+", "+2", "2++1", "a", "2+1 ", "99999999999"}) EXPECT_FALSE(pipeline_depths(form));
}

TEST(JobHash, ChangesWithEverythingThatDeterminesTheBits) {
  const Hash128 base = job_hash(small_job());
  const std::vector<std::function<void(JobSpec&)>> changes{
      [](JobSpec& j) { j.model.layers = 7; },
      [](JobSpec& j) { j.model.family = ModelFamily::llama; },
      [](JobSpec& j) {
        j.data.content_hash = {0, 1};
      },
      [](JobSpec& j) {
        j.pretrained.weights_hash = {0, 1};
      },
      [](JobSpec& j) { j.data.validation_fraction = 0.1; },
      [](JobSpec& j) { j.data.tokenizer = TokenizerKind::bpe; },
      [](JobSpec& j) { j.batch.slots = 16; },
      [](JobSpec& j) { j.batch.sequences = 2; },
      [](JobSpec& j) { j.optimizer.beta2 = 0.99; },
      [](JobSpec& j) { j.train.seed = 2; },
      [](JobSpec& j) { j.train.steps = 1001; },
      [](JobSpec& j) { j.train.tile_elements = 1024; },
  };
  for (std::size_t i = 0; i < changes.size(); ++i) {
    JobSpec job = small_job();
    changes[i](job);
    EXPECT_NE(job_hash(job), base) << "change " << i;
  }
}

TEST(JobHash, IgnoresHowAndWhereTheJobRuns) {
  JobSpec job = small_job();
  const Hash128 base = job_hash(job);
  job.name = "other";
  job.data.path = "/elsewhere";
  job.pretrained.path = "/weights";
  job.cluster.workers = 5;
  job.cluster.threads = 2;
  job.cluster.device = "cuda";
  job.cluster.precision = Precision::fp32;
  job.checkpoint.every_steps = 1;
  job.metrics.jsonl = false;
  job.security.insecure = true;
  job.integrity.check_every = 1;
  EXPECT_EQ(job_hash(job), base);
}

struct Contradiction {
  const char* name;
  std::function<void(JobSpec&)> change;
  const char* message;
};

class Contradictions : public testing::TestWithParam<Contradiction> {};

TEST_P(Contradictions, AreRefusedByName) {
  EXPECT_THAT(problem(GetParam().change), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    JobSpec, Contradictions,
    testing::Values(
        Contradiction{"NoLayers", [](JobSpec& j) { j.model.layers = 0; }, "model.layers = 0: expected an integer from"},
        Contradiction{"NoHeads", [](JobSpec& j) { j.model.heads = 0; }, "model.heads = 0"},
        Contradiction{"BadEnum", [](JobSpec& j) { j.model.family = static_cast<ModelFamily>(9); }, "model.family = 9"},
        Contradiction{"PinnedWeightsFromNowhere",
                      [](JobSpec& j) {
                        j.pretrained.weights_hash = {1, 2};
                      },
                      "without model.pretrained"},
        Contradiction{"NameThatLeavesItsDirectory", [](JobSpec& j) { j.name = "../up"; }, "name = "},
        Contradiction{"NanRate", [](JobSpec& j) { j.optimizer.learning_rate = 0.0 / 0.0; }, "learning_rate = "},
        Contradiction{"HeadsDontDivideWidth", [](JobSpec& j) { j.model.width = 385; }, "model.width = 385"},
        Contradiction{"KvHeadsForGpt2", [](JobSpec& j) { j.model.kv_heads = 3; }, "needs model.family"},
        Contradiction{"DropoutForLlama",
                      [](JobSpec& j) {
                        j.model.family = ModelFamily::llama;
                        j.model.dropout = 0.1;
                      },
                      "model.dropout = 0.1"},
        Contradiction{"SlotsNoPowerOfTwo", [](JobSpec& j) { j.batch.slots = 12; }, "use 8"},
        Contradiction{"SlotsDontDivide", [](JobSpec& j) { j.batch.micro_batches = 48; }, "use slots = 16 or fewer"},
        Contradiction{"MoreWorkersThanSlots", [](JobSpec& j) { j.cluster.workers = 33; }, "raise batch.slots"},
        Contradiction{"TileNoPowerOfTwo", [](JobSpec& j) { j.train.tile_elements = 1000; }, "use 1024"},
        Contradiction{"TooManyTiles",
                      [](JobSpec& j) {
                        j.model.width = 65536;
                        j.model.heads = j.model.kv_heads = 64;
                        j.train.tile_elements = 64;
                      },
                      "train.tile_elements = 64"},
        Contradiction{"VocabTooSmallForBytes", [](JobSpec& j) { j.model.vocab = 255; }, "set it to 256"},
        Contradiction{"BpeWithoutFile", [](JobSpec& j) { j.data.tokenizer = TokenizerKind::bpe; },
                      "needs data.tokenizer_file"},
        Contradiction{"FileWithoutBpe", [](JobSpec& j) { j.data.tokenizer_file = "t.json"; }, "leave the file out"},
        Contradiction{"MinRateAboveRate", [](JobSpec& j) { j.optimizer.min_learning_rate = 1; }, "exceeds"},
        Contradiction{"BetaOfOne", [](JobSpec& j) { j.optimizer.beta2 = 1; }, "optimizer.beta2 = 1"},
        Contradiction{"WarmupLongerThanRun", [](JobSpec& j) { j.train.steps = 50; }, "warmup_steps = 100 exceeds"},
        Contradiction{"WarmupAndDecayOverlap",
                      [](JobSpec& j) {
                        j.optimizer.schedule = ScheduleKind::wsd;
                        j.optimizer.decay_fraction = 0.95;
                      },
                      "overlap"},
        Contradiction{"SequencesOverflow",
                      [](JobSpec& j) {
                        j.train.steps = kMaxSteps;
                        j.batch.micro_batches = 1 << 20;
                        j.batch.sequences = 1 << 16;
                      },
                      "2^62"},
        Contradiction{"Device", [](JobSpec& j) { j.cluster.device = "gpu"; }, "\"gpu\" is no device"},
        Contradiction{"Bf16OnACpu", [](JobSpec& j) { j.cluster.precision = Precision::bf16; },
                      "cluster.precision: a CPU trains in fp32 only"},
        Contradiction{"KernelsOfBf16ForFp32",
                      [](JobSpec& j) {
                        j.cluster.device = "cuda";
                        j.cluster.precision = Precision::fp32;
                        j.cluster.kernels = "kernels.bin";
                      },
                      "leave one of them out"},
        Contradiction{"MinWorkers", [](JobSpec& j) { j.cluster.min_workers = 4; }, "never start"},
        Contradiction{"HeartbeatsPerLease", [](JobSpec& j) { j.cluster.heartbeat_ms = 500; },
                      "raise the lease to 1500"},
        Contradiction{"GraceAboveLease", [](JobSpec& j) { j.cluster.suspect_grace_ms = 1000; }, "suspect_grace_ms"},
        Contradiction{"LeaseAbovePrepare", [](JobSpec& j) { j.cluster.lease_ms = 2000; },
                      "cluster.lease_ms = 2000 must be below cluster.prepare_timeout_ms = 2000"},
        Contradiction{"PrepareAboveStall", [](JobSpec& j) { j.cluster.stall_timeout_ms = 1500; }, "stall_timeout_ms"},
        Contradiction{"SamePort", [](JobSpec& j) { j.cluster.http_port = j.cluster.control_port = 7; }, "both 7"},
        Contradiction{"SubscribersPort",
                      [](JobSpec& j) {
                        j.cluster.telemetry_port = 7;
                        j.cluster.http_port = 8;
                      },
                      "subscribers"},
        Contradiction{"NoPortForSubscribers", [](JobSpec& j) { j.cluster.telemetry_port = 65535; }, "lower one"},
        Contradiction{"ListenByName", [](JobSpec& j) { j.cluster.listen = "localhost"; }, "IP address"},
        Contradiction{"HalfTls", [](JobSpec& j) { j.security.tls_key = "k"; }, "all three"}),
    [](const auto& info) { return info.param.name; });

// Its job file, from which others export, and the job that it gives to workers hold no token.
TEST(JobSpecValidation, AnOpenAddressIsForTheCoordinatorToProtect) {
  EXPECT_EQ(problem([](JobSpec& j) { j.cluster.listen = "0.0.0.0"; }), "none");
}

}  // namespace
}  // namespace planaria
