// The same bits for any number of threads, any cut of the blocks and any fold of the slots.
#include <cmath>
#include <cstring>
#include <limits>

#include "model_test_support.hpp"
#include "worker/model/init.hpp"
#include "worker/model/probe.hpp"
#include "worker/model/transformer_pass.hpp"

namespace planaria {
namespace {

class DeterminismTest : public ::testing::TestWithParam<ModelFamily> {
 protected:
  static JobSpec job() {
    JobSpec job = small_job(GetParam(), GetParam() == ModelFamily::gpt2, GetParam() == ModelFamily::gpt2 ? 0.1 : 0.0);
    job.model.width = 96;
    job.model.ffn_width = 250;
    job.model.context = 37;
    job.batch = {.micro_batches = 8, .sequences = 2, .slots = 4};
    return job;
  }
  static std::vector<float> train(std::size_t threads, int steps) {
    const auto device = cpu(threads);
    const JobSpec spec = job();
    const auto trainer = trainer_of(*device, spec);
    for (int t = 0; t < steps; ++t) EXPECT_TRUE(trainer->step().ok());
    return trainer->parameters_on_host();
  }
};

TEST_P(DeterminismTest, AnyNumberOfThreadsGivesTheSameBits) {
  const std::vector<float> one = train(1, 3);
  for (const std::size_t threads : {2U, 3U}) {
    const std::vector<float> more = train(threads, 3);
    EXPECT_EQ(std::memcmp(one.data(), more.data(), one.size() * sizeof(float)), 0) << threads << " threads";
  }
}

TEST_P(DeterminismTest, TheFoldIsTheCanonicalTree) {
  const auto device = cpu();
  const JobSpec spec = job();
  const auto trainer = trainer_of(*device, spec);
  ASSERT_TRUE(trainer->accumulate_gradient().ok());
  const std::size_t elements = trainer->map().vector_elements();
  const auto engine = make_model_engine(*device, spec.model, trainer->map(), {spec.batch.sequences, spec.model.context},
                                        spec.train.seed);
  ASSERT_TRUE(engine.ok());
  const auto blocks = static_cast<std::uint32_t>(trainer->map().blocks().size());
  const BlockRange all{0, blocks};
  const auto made = (*engine)->make_pass(all);
  ASSERT_TRUE(made.ok());
  ModelPass& pass = **made;
  const auto slot = [&](std::uint32_t index) {
    std::vector<float> sum(elements);
    std::vector<double> losses(spec.batch.sequences);
    HostBatch batch;
    for (std::uint32_t i = 2 * index; i < 2 * index + 2; ++i) {
      pattern_source(spec)(Step(1), MicroBatchIndex(i), batch);
      pass.load(batch, Step(1));
      pass.forward(all, trainer->parameters(), true, nullptr, nullptr, losses.data());
      pass.backward(all, trainer->parameters(), {sum.data(), i == 2 * index}, nullptr, nullptr);
    }
    return sum;
  };
  const auto add = [](std::vector<float> a, const std::vector<float>& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
    return a;
  };
  const std::vector<float> root = add(add(slot(0), slot(1)), add(slot(2), slot(3)));
  EXPECT_EQ(std::memcmp(root.data(), trainer->gradient(), elements * sizeof(float)), 0);
}

// As a pipeline computes: each stage keeps its own micro-batches in flight, and only boundaries pass between them; the
// weights' gradients come with the inputs' or after all of them.
TEST_P(DeterminismTest, AnyCutIntoStagesGivesTheSameGradient) {
  const auto device = cpu();
  const JobSpec spec = job();
  const auto trainer = trainer_of(*device, spec);
  const StateMap& map = trainer->map();
  const auto engine =
      make_model_engine(*device, spec.model, map, {spec.batch.sequences, spec.model.context}, spec.train.seed);
  ASSERT_TRUE(engine.ok());
  const auto blocks = static_cast<std::uint32_t>(map.blocks().size());
  const auto gradient = [&](const std::vector<BlockRange>& stages, bool split) {
    std::vector<float> sum = garbage(map);
    std::vector<std::vector<std::unique_ptr<ModelPass>>> passes(2);
    std::vector<std::vector<LinearDeltas>> deltas(2);
    for (auto& of_micro_batch : deltas) of_micro_batch.resize(stages.size());
    std::vector<double> losses(spec.batch.sequences);
    std::vector<float> boundary((*engine)->boundary_elements()), next(boundary.size());
    HostBatch batch;
    for (std::uint32_t i = 0; i < 2; ++i) {
      pattern_source(spec)(Step(1), MicroBatchIndex(i), batch);
      for (const BlockRange stage : stages) {
        passes[i].push_back(std::move((*engine)->make_pass(stage)).value());
        passes[i].back()->load(batch, Step(1));
        passes[i].back()->forward(stage, trainer->parameters(), true, boundary.data(), next.data(), losses.data());
        std::swap(boundary, next);
      }
    }
    const auto sums = [&](std::uint32_t i) { return GradientSums{sum.data(), i == 0}; };
    for (std::uint32_t i = 0; i < 2; ++i) {
      for (std::size_t s = stages.size(); s-- > 0;) {
        ModelPass& pass = *passes[i][s];
        if (split && stages[s].begin > 0) {
          EXPECT_TRUE(pass.cover_deltas(stages[s], deltas[i][s]).ok());
          pass.backward_input(stages[s], trainer->parameters(), sums(i), boundary.data(), next.data(), deltas[i][s]);
        } else {
          pass.backward(stages[s], trainer->parameters(), sums(i), boundary.data(), next.data());
        }
        std::swap(boundary, next);
      }
    }
    for (std::uint32_t i = 0; split && i < 2; ++i) {
      for (std::size_t s = 0; s < stages.size(); ++s) {
        if (stages[s].begin > 0) passes[i][s]->backward_weights(stages[s], sums(i), deltas[i][s]);
      }
    }
    return sum;
  };
  const std::vector<float> whole = gradient({{0, blocks}}, false);
  for (std::uint32_t cut = 1; cut < blocks; ++cut) {
    for (const bool split : {false, true}) EXPECT_EQ(gradient({{0, cut}, {cut, blocks}}, split), whole) << cut;
  }
  std::vector<BlockRange> single;
  for (std::uint32_t block = 0; block < blocks; ++block) single.push_back({block, block + 1});
  EXPECT_EQ(gradient(single, false), whole);
  EXPECT_EQ(gradient(single, true), whole);
}

INSTANTIATE_TEST_SUITE_P(Families, DeterminismTest, ::testing::Values(ModelFamily::gpt2, ModelFamily::llama),
                         [](const auto& info) { return info.param == ModelFamily::gpt2 ? "gpt2" : "llama"; });

TEST(NumericClassProbe, AgreesForAnyNumberOfThreads) {
  const auto one = probe_numeric_class(*cpu(1));
  const auto three = probe_numeric_class(*cpu(3));
  ASSERT_TRUE(one.ok() && three.ok());
  EXPECT_EQ(one->hex(), three->hex());
}

TEST(NumericClassProbe, TellsInstructionSetsApart) {
  auto baseline = make_cpu_device({.threads = 1, .isa = CpuIsa::baseline});
  ASSERT_TRUE(baseline.ok());
  const auto best = cpu();
  if (best->numeric_class() == (*baseline)->numeric_class()) GTEST_SKIP() << "this machine has the baseline only";
  EXPECT_NE(probe_numeric_class(*best)->hex(), probe_numeric_class(**baseline)->hex());
}

TEST(BareTrainer, LearnsAPattern) {
  const auto device = cpu();
  for (const ModelFamily family : {ModelFamily::gpt2, ModelFamily::llama}) {
    const JobSpec job = small_job(family, true);
    const auto trainer = trainer_of(*device, job);
    const double first = trainer->step()->loss;
    double last = first;
    while (trainer->last_step() < Step(50)) last = trainer->step()->loss;
    EXPECT_NEAR(first, std::log(48.0), 0.1);
    EXPECT_LT(last, 0.8 * first);
  }
}

TEST(BareTrainer, AGradientThatIsNotFiniteLeavesTheParametersAlone) {
  const auto device = cpu();
  const JobSpec job = small_job(ModelFamily::gpt2, true);
  const auto trainer = trainer_of(*device, job);
  trainer->parameters()[3] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> before = trainer->parameters_on_host();
  const auto report = trainer->step();
  ASSERT_TRUE(report.ok());
  EXPECT_FALSE(report->updated);
  EXPECT_EQ(std::memcmp(before.data(), trainer->parameters(), before.size() * sizeof(float)), 0);
}

}  // namespace
}  // namespace planaria
