// Trains GPT-2 on one GPU on random tokens and tells how fast: the bare loop, without workers around it.
//   training_gpu MODEL SEQUENCES MICRO_BATCHES STEPS    MODEL: 124M, 355M or 1558M
// MFU counts 6 operations a parameter and token, and 12 · layers · width · context / 2 of causal attention, over 989
// TFLOP/s.
#include <cuda_profiler_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "common/philox.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "worker/model/bare_loop.hpp"

namespace planaria {
namespace {

constexpr std::size_t kWarmUp = 5;

Result<JobSpec> job_of(const std::string& name, std::uint32_t sequences, std::uint32_t micro_batches) {
  JobSpec job;
  job.model.context = 1024;
  job.model.vocab = 50257;
  if (name == "124M") {
    job.model.layers = 12, job.model.heads = 12, job.model.width = 768;
  } else if (name == "355M") {
    job.model.layers = 24, job.model.heads = 16, job.model.width = 1024;
  } else if (name == "1558M") {
    job.model.layers = 48, job.model.heads = 25, job.model.width = 1600;
  } else {
    return Error(ErrorCode::invalid_argument, "no model " + name);
  }
  job.model.kv_heads = job.model.heads;
  job.model.ffn_width = 4 * job.model.width;
  job.batch.micro_batches = micro_batches;
  job.batch.slots = std::bit_floor(micro_batches);
  job.batch.sequences = sequences / micro_batches;
  job.train.steps = 1000;
  job.train.tile_elements = 1 << 16;
  return job;
}

Status measure(const std::string& name, const JobSpec& job, std::size_t steps) {
  PLANARIA_ASSIGN(auto device, cuda::CudaDevice::create(0));
  const auto source = [&job](Step step, MicroBatchIndex micro_batch, HostBatch& out) {
    PhiloxStream random(philox_key(step.value() * 1000 + micro_batch.value(), RandomPurpose::tests));
    const std::size_t rows = std::size_t{job.batch.sequences} * job.model.context;
    out.tokens.resize(rows);
    out.targets.resize(rows);
    out.samples.resize(job.batch.sequences);
    for (auto& token : out.tokens) token = static_cast<std::int32_t>(random.below(job.model.vocab));
    for (auto& token : out.targets) token = static_cast<std::int32_t>(random.below(job.model.vocab));
  };
  // Drawn beforehand: a data thread's work is not what is measured.
  std::vector<HostBatch> batches(job.batch.micro_batches);
  for (std::uint32_t i = 0; i < job.batch.micro_batches; ++i) source(Step(1), MicroBatchIndex(i), batches[i]);
  const auto prepare_begun = std::chrono::steady_clock::now();
  PLANARIA_ASSIGN(auto trainer, BareTrainer::create(*device, job, [&](Step, MicroBatchIndex i, HostBatch& out) {
                    out = batches[i.value()];
                  }));
  using Seconds = std::chrono::duration<double>;
  const double prepared = Seconds(std::chrono::steady_clock::now() - prepare_begun).count();
  std::vector<double> took;
  double first_loss = 0, last_loss = 0;
  for (std::size_t i = 0; i < kWarmUp + steps; ++i) {
    const auto begun = std::chrono::steady_clock::now();
    PLANARIA_ASSIGN(const BareStepReport report, trainer->step());
    if (i >= kWarmUp) took.push_back(Seconds(std::chrono::steady_clock::now() - begun).count());
    if (i == 0) first_loss = report.loss;
    last_loss = report.loss;
  }
  // One more for a profiler that is told to wait for it: ncu --profile-from-start off.
  cudaProfilerStart();
  PLANARIA_TRY(trainer->step());
  cudaProfilerStop();
  std::ranges::sort(took);
  const double median = took[took.size() / 2];
  const double tokens = static_cast<double>(job.tokens_per_step());
  const auto& model = job.model;
  const std::vector<float> parameters = trainer->parameters_on_host();
  const double operations = tokens * (6.0 * static_cast<double>(trainer->map().parameter_count()) +
                                      6.0 * model.layers * static_cast<double>(model.width) * model.context);
  fmt::print(
      "{} on {}: {} x {} sequences a step: {:.2f} ms ({:.2f} to {:.2f}), {:.0f} tokens/s, MFU {:.1f} %; prepared in "
      "{:.1f} s; loss {:.4f} -> {:.4f}; weights {}\n",
      name, device->numeric_class(), job.batch.micro_batches, job.batch.sequences, 1e3 * median, 1e3 * took.front(),
      1e3 * took.back(), tokens / median, 100 * operations / median / 989e12, prepared, first_loss, last_loss,
      hash_of(std::span<const float>(parameters)).hex());
  return ok_status();
}

}  // namespace
}  // namespace planaria

int main(int argc, char** argv) {
  if (argc != 5) {
    fmt::print(stderr, "usage: training_gpu 124M|355M|1558M SEQUENCES MICRO_BATCHES STEPS\n");
    return 2;
  }
  const auto number = [&](int i) { return static_cast<std::uint32_t>(std::strtoul(argv[i], nullptr, 10)); };
  const auto job = planaria::job_of(argv[1], number(2), std::max(1U, number(3)));
  const planaria::Status done = job ? planaria::measure(argv[1], *job, std::max(1U, number(4))) : job.error();
  if (done) return 0;
  fmt::print(stderr, "training_gpu: {}\n", done.error().describe());
  return 1;
}
