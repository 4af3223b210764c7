// Small jobs and devices for the model tests.
//
// Thread contract: helpers of one test.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "common/philox.hpp"
#include "kernels/device.hpp"
#include "worker/model/bare_loop.hpp"

namespace planaria {

inline std::unique_ptr<TensorDevice> cpu(std::size_t threads = 1) {
  auto device = make_cpu_device({.threads = threads});
  EXPECT_TRUE(device.ok()) << (device.ok() ? "" : device.error().describe());
  return std::move(device).value();
}

inline JobSpec small_job(ModelFamily family, bool tied, double dropout = 0.0) {
  const bool gpt2 = family == ModelFamily::gpt2;
  JobSpec job;
  job.model = {.family = family,
               .layers = 2,
               .heads = 4,
               .kv_heads = gpt2 ? 4U : 2U,
               .width = 32,
               .ffn_width = gpt2 ? 128U : 80U,
               .vocab = 48,
               .context = 16,
               .tied_embedding = tied,
               .dropout = dropout};
  job.batch = {.micro_batches = 4, .sequences = 2, .slots = 4};
  job.optimizer.learning_rate = 3e-3;
  job.optimizer.min_learning_rate = 3e-4;
  job.optimizer.warmup_steps = 10;
  job.train.steps = 50;
  job.train.tile_elements = 1024;
  return job;
}

// A learnable stream, the same as in tests/oracle/make_fixtures.py.
inline std::int32_t pattern_token(std::uint64_t k, std::uint32_t vocab) {
  return static_cast<std::int32_t>((k * k * 7 + k / 3) % vocab);
}

inline BatchSource pattern_source(const JobSpec& job) {
  const BatchShape shape{job.batch.micro_batches, job.batch.sequences};
  return [shape, model = job.model](Step step, MicroBatchIndex micro_batch, HostBatch& out) {
    out = {};
    for (std::uint32_t j = 0; j < shape.sequences; ++j) {
      out.samples.push_back(sequence_index(shape, step, micro_batch, j));
      const std::uint64_t start = 5 * out.samples.back() % 997;
      for (std::uint64_t i = 0; i < model.context; ++i) {
        out.tokens.push_back(pattern_token(start + i, model.vocab));
        out.targets.push_back(pattern_token(start + i + 1, model.vocab));
      }
    }
  };
}

inline std::unique_ptr<BareTrainer> trainer_of(Device& device, const JobSpec& job) {
  auto trainer = BareTrainer::create(device, job, pattern_source(job));
  EXPECT_TRUE(trainer.ok()) << (trainer.ok() ? "" : trainer.error().describe());
  return std::move(trainer).value();
}

// What a vector of sums may hold before they begin.
inline std::vector<float> garbage(const StateMap& map) {
  std::vector<float> values(map.vector_elements());
  for (const BlockInfo& block : map.blocks()) {
    std::fill_n(values.begin() + static_cast<std::ptrdiff_t>(block.offset), block.elements,
                std::numeric_limits<float>::quiet_NaN());
  }
  return values;
}

inline std::string name_of(ModelFamily family, bool tied) {
  return std::string(family == ModelFamily::gpt2 ? "gpt2" : "llama") + (tied ? "Tied" : "Untied");
}

}  // namespace planaria
