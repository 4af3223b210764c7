#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <tuple>

#include "tests/integration/planaria_process.hpp"

namespace planaria {
namespace {

// A run of the tiny job; its summary, or null with the output as the failure's message.
nlohmann::json run_tiny(const std::string& output, std::vector<std::string> more) {
  // Nobody is lost here: a lease that outlives any load of the machine.
  std::vector<std::string> arguments{"run",     tiny_job(),
                                     "--out",   output,
                                     "--quiet", "--json",
                                     "--set",   "cluster.lease_ms=5000",
                                     "--set",   "cluster.prepare_timeout_ms=6000"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  const ProgramResult result = planaria_program(arguments);
  EXPECT_EQ(result.exit_code, 0) << result.output;
  return last_json(result);
}

TEST(Run, AnyNumberOfWorkersAndThreadsGivesTheSameBits) {
  const ScratchDirectory scratch;
  const auto alone = run_tiny(scratch.path("1"), {"--workers", "1", "--steps", "20"});
  ASSERT_TRUE(alone.is_object());
  EXPECT_EQ(alone["sequences_used"], 20 * 128);
  EXPECT_EQ(alone["microbatches_computed"], 20 * 128);
  for (const char* workers : {"2", "3", "5"}) {
    const auto shared = run_tiny(scratch.path(workers), {"--workers", workers, "--steps", "20"});
    EXPECT_EQ(shared["weights_hash"], alone["weights_hash"]) << workers << " workers";
    EXPECT_EQ(shared["final_val_loss"], alone["final_val_loss"]) << workers << " workers";
  }
  const auto threads = run_tiny(scratch.path("t"), {"--workers", "2", "--steps", "20", "--set", "cluster.threads=2"});
  EXPECT_EQ(threads["weights_hash"], alone["weights_hash"]);
}

TEST(Run, AnyPipelinesGiveTheSameBits) {
  const ScratchDirectory scratch;
  const auto alone = run_tiny(scratch.path("alone"), {"--workers", "1", "--steps", "12"});
  ASSERT_TRUE(alone.is_object());
  for (const char* layout : {"1", "2", "3", "2+1", "2+2", "3+2"}) {
    const auto piped = run_tiny(scratch.path(layout), {"--layout", layout, "--steps", "12"});
    EXPECT_EQ(piped["weights_hash"], alone["weights_hash"]) << layout;
    EXPECT_EQ(piped["final_val_loss"], alone["final_val_loss"]) << layout;
    EXPECT_EQ(piped["microbatches_computed"], 12 * 128) << layout;
    EXPECT_EQ(piped["ledger"]["missing"], 0) << layout;
  }
}

TEST(Run, AnotherSeedGivesOtherBits) {
  const ScratchDirectory scratch;
  const auto one = run_tiny(scratch.path("1"), {"--workers", "1", "--steps", "8", "--seed", "1"});
  const auto two = run_tiny(scratch.path("2"), {"--workers", "1", "--steps", "8", "--seed", "2"});
  EXPECT_NE(one["weights_hash"], two["weights_hash"]);
}

TEST(Run, ResumesFromACheckpointOnOtherWorkersToTheSameBits) {
  const ScratchDirectory scratch;
  const auto whole = run_tiny(scratch.path("whole"), {"--workers", "1"});
  std::filesystem::remove_all(scratch.path("whole") + "/checkpoints/step-00000040");
  const auto resumed = run_tiny(scratch.path("resumed"), {"--workers", "3", "--resume", scratch.path("whole")});
  EXPECT_EQ(resumed["weights_hash"], whole["weights_hash"]);
  EXPECT_EQ(resumed["steps_committed"], 40);
  EXPECT_EQ(resumed["microbatches_computed"], 20 * 128);
}

TEST(Run, ACheckpointOfPipelinesGoesOnAtOneWorkerAndTheReverse) {
  const ScratchDirectory scratch;
  const std::vector<std::string> pipelines{"--workers", "5", "--layout", "3+2", "--set", "optimizer.shard=true"};
  const std::vector<std::string> alone{"--workers", "1"};
  const auto with = [](std::vector<std::string> arguments, const std::string& resumed) {
    arguments.insert(arguments.end(), {"--resume", resumed});
    return arguments;
  };
  for (const auto& [name, first, second] :
       {std::tuple("to one", pipelines, alone), std::tuple("to pipelines", alone, pipelines)}) {
    SCOPED_TRACE(name);
    const std::string whole = scratch.path(std::string(name) + " before");
    const auto before = run_tiny(whole, first);
    std::filesystem::remove_all(whole + "/checkpoints/step-00000040");
    const auto after = run_tiny(scratch.path(std::string(name) + " after"), with(second, whole));
    EXPECT_EQ(after["weights_hash"], before["weights_hash"]);
    EXPECT_EQ(after["microbatches_computed"], 20 * 128);
  }
}

TEST(Run, ADamagedCheckpointIsPassedOverForTheOneBefore) {
  const ScratchDirectory scratch;
  const auto whole = run_tiny(scratch.path("whole"), {"--workers", "1"});
  const std::string newest = scratch.path("whole") + "/checkpoints/step-00000040/layer.2.safetensors";
  {
    std::fstream file(newest, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(5000);
    file.put('\x5a');
  }
  const auto resumed = run_tiny(scratch.path("resumed"), {"--workers", "2", "--resume", scratch.path("whole")});
  EXPECT_EQ(resumed["weights_hash"], whole["weights_hash"]);
}

TEST(Run, ATruncatedCheckpointIsPassedOverAndTold) {
  const ScratchDirectory scratch;
  const auto whole = run_tiny(scratch.path("whole"), {"--workers", "1"});
  const std::string checkpoints = scratch.path("whole") + "/checkpoints";
  std::filesystem::resize_file(checkpoints + "/step-00000040/layer.0.safetensors", 1000);
  const ProgramResult resumed = planaria_program(
      {"run", tiny_job(), "--out", scratch.path("resumed"), "--quiet", "--json", "--resume", scratch.path("whole")});
  EXPECT_EQ(resumed.exit_code, 0) << resumed.output;
  EXPECT_NE(resumed.output.find("step-00000040"), std::string::npos) << resumed.output;
  EXPECT_EQ(last_json(resumed)["weights_hash"], whole["weights_hash"]);

  std::filesystem::resize_file(checkpoints + "/step-00000020/manifest.json", 100);
  const ProgramResult refused = planaria_program(
      {"run", tiny_job(), "--out", scratch.path("refused"), "--quiet", "--resume", scratch.path("whole")});
  EXPECT_EQ(refused.exit_code, 3) << refused.output;
}

TEST(Run, AnEndedRunIsTheSameWhenItIsResumedOrLookedAt) {
  const ScratchDirectory scratch;
  const std::string whole = scratch.path("whole");
  const auto first = run_tiny(whole, {"--workers", "1", "--steps", "8", "--set", "cluster.listen=127.0.0.2"});
  const auto again = run_tiny(whole, {"--workers", "1", "--steps", "8", "--resume", whole});
  EXPECT_EQ(again["weights_hash"], first["weights_hash"]);
  EXPECT_EQ(again["microbatches_computed"], first["microbatches_computed"]);
  EXPECT_TRUE(again["wall_s"].is_null());
  const ProgramResult status = planaria_program({"status", whole, "--json"}, 30);
  EXPECT_EQ(status.exit_code, 0) << status.output;
  EXPECT_EQ(last_json(status)["weights_hash"], first["weights_hash"]);
}

TEST(Run, ResumingAnotherJobIsRefusedAndChangesNothing) {
  const ScratchDirectory scratch;
  const std::string whole = scratch.path("whole");
  run_tiny(whole, {"--workers", "1", "--steps", "8"});
  for (const std::string& output : {scratch.path("elsewhere"), whole}) {
    const ProgramResult refused =
        planaria_program({"run", tiny_job(), "--steps", "12", "--out", output, "--quiet", "--resume", whole}, 30);
    EXPECT_EQ(refused.exit_code, 4) << refused.output;
  }
  EXPECT_EQ(planaria_program({"generate", "--from", whole, "--tokens", "4"}).exit_code, 0);
}

TEST(Run, LeavesLogsThatCanBeRead) {
  const ScratchDirectory scratch;
  const std::string out = scratch.path("run");
  run_tiny(out, {"--workers", "2", "--steps", "8"});
  const std::string lines = file_text(out + "/coordinator.jsonl");
  EXPECT_NE(lines.find("finished step 8"), std::string::npos) << lines;
  std::size_t views = 0;
  for (const auto& file : std::filesystem::directory_iterator(out + "/workers")) {
    std::ifstream worker(file.path());
    for (std::string line; file.path().extension() == ".jsonl" && std::getline(worker, line);) {
      const auto object = nlohmann::json::parse(line);
      views += object["message"] == "enters a view" && object["incarnation"] == 1 ? 1 : 0;
    }
  }
  EXPECT_GE(views, 2U) << "each of them entered one at least; a busy machine makes more";
  const auto log = planaria_program({"status", out, "--log"});
  EXPECT_EQ(log.exit_code, 0) << log.output;
  EXPECT_NE(log.output.find("view committed"), std::string::npos) << log.output;
}

TEST(Run, ExportedWeightsHashAsTheRunSaid) {
  const ScratchDirectory scratch;
  const auto run = run_tiny(scratch.path("run"), {"--workers", "2", "--steps", "8"});
  const auto exported = planaria_program({"export", "--from", scratch.path("run"), "--to", scratch.path("hf")});
  EXPECT_EQ(exported.exit_code, 0) << exported.output;
  EXPECT_NE(exported.output.find(run["weights_hash"].get<std::string>()), std::string::npos) << exported.output;
  const auto sample =
      planaria_program({"generate", "--from", scratch.path("run"), "--prompt", "The", "--tokens", "20"});
  EXPECT_EQ(sample.exit_code, 0) << sample.output;
  EXPECT_TRUE(sample.output.starts_with("The"));
}

TEST(Run, AnExportIsTheStartOfAnotherJobOnAnyWorkers) {
  const ScratchDirectory scratch;
  const std::string model = scratch.path("hf");
  const auto first = run_tiny(scratch.path("first"), {"--workers", "1", "--steps", "8"});
  ASSERT_EQ(planaria_program({"export", "--from", scratch.path("first"), "--to", model}).exit_code, 0);
  const auto table = planaria_program({"import", model, "--json"});
  ASSERT_EQ(table.exit_code, 0) << table.output;
  EXPECT_EQ(last_json(table)["weights_hash"], first["weights_hash"]);

  const std::string pretrained = "model.pretrained=" + model;
  const auto alone = run_tiny(scratch.path("1"), {"--workers", "1", "--steps", "8", "--set", pretrained});
  const auto shared = run_tiny(scratch.path("3"), {"--workers", "3", "--steps", "8", "--set", pretrained});
  const auto piped = run_tiny(scratch.path("p"), {"--layout", "2+1", "--steps", "8", "--set", pretrained});
  const auto from_seed = run_tiny(scratch.path("seed"), {"--workers", "1", "--steps", "8"});
  EXPECT_EQ(shared["weights_hash"], alone["weights_hash"]);
  EXPECT_EQ(piped["weights_hash"], alone["weights_hash"]);
  EXPECT_NE(from_seed["weights_hash"], alone["weights_hash"]);
  EXPECT_NE(from_seed["job_hash"], alone["job_hash"]);
}

TEST(Run, AnImportedTableMakesAJobAndAnotherModelIsRefused) {
  const ScratchDirectory scratch;
  const std::string model = scratch.path("hf");
  run_tiny(scratch.path("first"), {"--workers", "1", "--steps", "8"});
  ASSERT_EQ(planaria_program({"export", "--from", scratch.path("first"), "--to", model}).exit_code, 0);
  const auto table = planaria_program({"import", model});
  ASSERT_EQ(table.exit_code, 0) << table.output;
  std::ofstream(scratch.path("job.toml")) << table.output << "[data]\npath = \"/usr/share/common-licenses/GPL-3\"\n"
                                          << "[train]\nsteps = 2\n[batch]\nmicro_batches = 4\n[cluster]\nworkers = 1\n";
  const auto run = planaria_program({"run", scratch.path("job.toml"), "--out", scratch.path("run"), "--quiet"});
  EXPECT_EQ(run.exit_code, 0) << run.output;
  const auto other = planaria_program({"coordinator", scratch.path("job.toml"), "--out", scratch.path("other"), "--set",
                                       "model.heads=4", "--set", "model.kv_heads=4"},
                                      30);
  EXPECT_EQ(other.exit_code, 4) << other.output;
  EXPECT_NE(other.output.find("model.heads = 4, but config.json says 2"), std::string::npos) << other.output;
}

// Tokens of the byte vocabulary, as `planaria tokenize` writes them.
TEST(Run, AnExportIsEvaluatedWithItsLogits) {
  const ScratchDirectory scratch;
  const std::string model = scratch.path("hf");
  const auto run = run_tiny(scratch.path("run"), {"--workers", "1", "--steps", "8"});
  ASSERT_EQ(planaria_program({"export", "--from", scratch.path("run"), "--to", model}).exit_code, 0);
  std::ofstream(scratch.path("text")) << "This program is distributed in the hope that it will be useful, but";
  ASSERT_EQ(planaria_program({"tokenize", scratch.path("text"), "--out", scratch.path("shards")}).exit_code, 0);
  const auto told = planaria_program({"evaluate", model, "--tokens", scratch.path("shards"), "--logits",
                                      scratch.path("logits.safetensors"), "--json"});
  ASSERT_EQ(told.exit_code, 0) << told.output;
  EXPECT_EQ(last_json(told)["tokens"], 64);
  EXPECT_GT(last_json(told)["loss"], 1.0);
  EXPECT_LT(last_json(told)["loss"], 6.0);
  EXPECT_GT(std::filesystem::file_size(scratch.path("logits.safetensors")), 64U * 256 * sizeof(float));
  const auto longer = planaria_program({"evaluate", model, "--tokens", scratch.path("shards"), "--context", "64"});
  EXPECT_EQ(longer.exit_code, 2) << longer.output;
}

TEST(Run, AFreezeShorterThanTheLeaseChangesNothing) {
  const ScratchDirectory scratch;
  std::ofstream(scratch.path("s.toml")) << "[[fault]]\nkind = \"stop\"\nat_step = 5\nworker = 1\nfor_s = 0.1\n";
  const auto run =
      run_tiny(scratch.path("run"), {"--workers", "2", "--steps", "12", "--scenario", scratch.path("s.toml"), "--set",
                                     "cluster.rebalance_gain=1"});  // what else a machine does moves no slots
  EXPECT_EQ(run["faults_fired"].size(), 1U);
  EXPECT_EQ(run["views"], 1);
  EXPECT_EQ(run["microbatches_computed"], 12 * 128);
}

TEST(Run, ANanAndACorruptFrameLeaveTheBitsAlone) {
  const ScratchDirectory scratch;
  const auto clean = run_tiny(scratch.path("clean"), {"--workers", "1", "--steps", "16"});
  std::ofstream(scratch.path("s.toml"))
      << "[[fault]]\nkind = \"nan\"\nat_step = 5\nworker = 1\n"
         "[[fault]]\nkind = \"corrupt\"\nat_step = 10\nphase = \"forward\"\nworker = 0\n";
  const auto run =
      run_tiny(scratch.path("run"), {"--workers", "3", "--steps", "16", "--scenario", scratch.path("s.toml")});
  EXPECT_EQ(run["faults_fired"].size(), 2U);
  EXPECT_EQ(run["weights_hash"], clean["weights_hash"]);
}

// Others are connecting with them then.
TEST(Run, JoinersThatDieAsTheyJoinHarmNobody) {
  constexpr int kJoiners = 4;
  const ScratchDirectory scratch;
  const auto clean = run_tiny(scratch.path("clean"), {"--workers", "1", "--steps", "40"});
  {
    std::ofstream scenario(scratch.path("s.toml"));
    for (int i = 0; i < kJoiners; ++i) {
      scenario << "[[fault]]\nkind = \"join\"\nat_step = " << 2 + 2 * i
               << "\n[[fault]]\nkind = \"kill\"\nat_step = 1\nphase = \"fetch\"\nworker = " << 3 + i << '\n';
    }
  }
  const auto run =
      run_tiny(scratch.path("run"), {"--workers", "3", "--steps", "40", "--scenario", scratch.path("s.toml")});
  EXPECT_EQ(run["faults_fired"].size(), 2U * kJoiners);
  EXPECT_EQ(run["workers_at_end"], 3);
  EXPECT_EQ(run["weights_hash"], clean["weights_hash"]);
}

}  // namespace
}  // namespace planaria
