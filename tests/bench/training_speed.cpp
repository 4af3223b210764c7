// Tokens a second of the bare training loop on the shapes of examples/gpt_11m.toml: the base line of the elastic
// trainer's overhead and our side of compare_pytorch.py.
//
//   training_speed [THREADS] [STEPS] [MICRO_BATCHES] [CONTEXT] [WIDTH] [LAYERS]
#include <fmt/format.h>

#include <chrono>
#include <cstdlib>

#include "common/philox.hpp"
#include "worker/model/bare_loop.hpp"

namespace planaria {
namespace {

JobSpec gpt_11m() {
  JobSpec job;
  job.model.kv_heads = job.model.heads;
  job.batch = {.micro_batches = 8, .sequences = 1, .slots = 8};
  return job;
}

BatchSource random_tokens(const JobSpec& job) {
  return [model = job.model](Step step, MicroBatchIndex micro_batch, HostBatch& out) {
    out = {};
    out.samples = {0};
    PhiloxStream random(philox_key(1, RandomPurpose::tests), (step.value() << 32) | micro_batch.value());
    for (std::uint32_t i = 0; i < model.context; ++i) {
      out.tokens.push_back(static_cast<std::int32_t>(random.below(model.vocab)));
      out.targets.push_back(static_cast<std::int32_t>(random.below(model.vocab)));
    }
  };
}

// Multiplications and additions of the matrix products and attention of one token, forward and backward.
double flops_per_token(const ModelSpec& model) {
  const double weights =
      static_cast<double>(model.layers) * (4.0 * model.width * model.width + 2.0 * model.width * model.ffn_width) +
      static_cast<double>(model.vocab) * model.width;
  const double attention = static_cast<double>(model.layers) * model.context * model.width;  // the causal half
  return 6.0 * (weights + attention);
}

int run(std::size_t threads, std::uint64_t steps, const JobSpec& job) {
  auto device = make_cpu_device({.threads = threads});
  if (!device) {
    fmt::print(stderr, "{}\n", device.error().describe());
    return 1;
  }
  auto trainer = BareTrainer::create(**device, job, random_tokens(job));
  if (!trainer) {
    fmt::print(stderr, "{}\n", trainer.error().describe());
    return 1;
  }
  double best = 0;
  double total = 0;
  for (std::uint64_t t = 0; t <= steps; ++t) {
    const auto start = std::chrono::steady_clock::now();
    const auto report = (*trainer)->step();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    if (!report) {
      fmt::print(stderr, "{}\n", report.error().describe());
      return 1;
    }
    if (t == 0) continue;  // first touch of memory
    total += took.count();
    best = std::max(best, static_cast<double>(job.tokens_per_step()) / took.count());
  }
  const double mean = static_cast<double>(steps * job.tokens_per_step()) / total;
  fmt::print("planaria: {} threads, {} parameters, {:.0f} tokens/s (best step {:.0f}), {:.1f} GFLOP/s\n", threads,
             (*trainer)->map().parameter_count(), mean, best, mean * flops_per_token(job.model) / 1e9);
  return 0;
}

}  // namespace
}  // namespace planaria

int main(int argc, char** argv) {
  const auto argument = [&](int index, std::uint32_t otherwise) {
    return argc > index ? static_cast<std::uint32_t>(std::atoi(argv[index])) : otherwise;
  };
  planaria::JobSpec job = planaria::gpt_11m();
  job.batch.micro_batches = job.batch.slots = argument(3, 8);
  job.model.context = argument(4, 256);
  job.model.width = argument(5, 384);
  job.model.ffn_width = 4 * job.model.width;
  job.model.layers = argument(6, 6);
  return planaria::run(argument(1, 2), argument(2, 3), job);
}
