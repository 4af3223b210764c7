// Trains GPT-2 on one GPU on random tokens and tells how fast: the bare loop, without workers around it.
//   training_gpu MODEL SEQUENCES MICRO_BATCHES STEPS [CHOICES ...]    MODEL: 124M, 355M or 1558M
// CHOICES: files of kernel choices, adopted in turns for some steps each, so that they are compared on the same chip at
// the same heat. One that isn't there is written with what the device chooses by itself.
// MFU counts 6 operations a parameter and token, and 12 · layers · width · context / 2 of causal attention, over 989
// TFLOP/s.
#include <cuda_profiler_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "common/philox.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "worker/model/bare_loop.hpp"

namespace planaria {
namespace {

constexpr std::size_t kWarmUp = 5;
constexpr std::size_t kTurns = 8;

using Bytes = std::vector<std::byte>;

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

// Empty: there is none.
Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

Status write_file(const std::string& path, const Bytes& bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return file.flush() ? ok_status() : Error(ErrorCode::io, "can't write " + path);
}

using Seconds = std::chrono::duration<double>;

struct Measured {
  std::vector<double> took;  // seconds, by step
  double loss = 0;
};

Status run(BareTrainer& trainer, std::size_t steps, Measured& out) {
  for (std::size_t i = 0; i < steps; ++i) {
    const auto begun = std::chrono::steady_clock::now();
    PLANARIA_ASSIGN(const BareStepReport report, trainer.step());
    out.took.push_back(Seconds(std::chrono::steady_clock::now() - begun).count());
    out.loss = report.loss;
  }
  return ok_status();
}

std::string describe(const JobSpec& job, const StateMap& map, std::vector<double> took) {
  std::ranges::sort(took);
  const double median = took[took.size() / 2];
  const double tokens = static_cast<double>(job.tokens_per_step());
  const auto& model = job.model;
  const double operations = tokens * (6.0 * static_cast<double>(map.parameter_count()) +
                                      6.0 * model.layers * static_cast<double>(model.width) * model.context);
  return fmt::format("{:.2f} ms ({:.2f} to {:.2f}), {:.0f} tokens/s, MFU {:.1f} %", 1e3 * median, 1e3 * took.front(),
                     1e3 * took.back(), tokens / median, 100 * operations / median / 989e12);
}

// In turns, the first step of each uncounted.
Status compare(Device& device, BareTrainer& trainer, const JobSpec& job, std::size_t steps,
               const std::vector<std::string>& paths) {
  std::vector<Measured> of_path(paths.size());
  for (std::size_t turn = 0; turn < kTurns; ++turn) {
    for (std::size_t i = 0; i < paths.size(); ++i) {
      const std::size_t at = turn % 2 == 0 ? i : paths.size() - 1 - i;
      PLANARIA_TRY(device.adopt_kernel_choices(read_file(paths[at])));
      Measured first;
      PLANARIA_TRY(run(trainer, 1, first));
      PLANARIA_TRY(run(trainer, steps, of_path[at]));
    }
  }
  for (std::size_t i = 0; i < paths.size(); ++i) {
    fmt::print("{}: {}\n", paths[i], describe(job, trainer.map(), of_path[i].took));
  }
  return ok_status();
}

Status measure(const std::string& name, const JobSpec& job, std::size_t steps,
               const std::vector<std::string>& choices) {
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
  const auto missing = std::ranges::find_if(choices, [](const auto& path) { return read_file(path).empty(); });
  if (!choices.empty() && missing == choices.end()) {
    PLANARIA_TRY(device->adopt_kernel_choices(read_file(choices.front())));
  }
  const auto prepare_begun = std::chrono::steady_clock::now();
  PLANARIA_ASSIGN(auto trainer, BareTrainer::create(*device, job, [&](Step, MicroBatchIndex i, HostBatch& out) {
                    out = batches[i.value()];
                  }));
  const double prepared = Seconds(std::chrono::steady_clock::now() - prepare_begun).count();
  if (missing != choices.end()) {
    PLANARIA_ASSIGN(const Bytes bytes, device->kernel_choices());
    PLANARIA_TRY(write_file(*missing, bytes));
  }
  Measured warm_up, measured;
  PLANARIA_TRY(run(*trainer, 1, warm_up));
  const double first_loss = warm_up.loss;
  PLANARIA_TRY(run(*trainer, kWarmUp - 1, warm_up));
  PLANARIA_TRY(run(*trainer, steps, measured));
  // One more for a profiler that is told to wait for it: ncu --profile-from-start off.
  cudaProfilerStart();
  PLANARIA_TRY(trainer->step());
  cudaProfilerStop();
  const std::vector<float> parameters = trainer->parameters_on_host();
  fmt::print("{} on {}: {} x {} sequences a step: {}; prepared in {:.1f} s; loss {:.4f} -> {:.4f}; weights {}\n", name,
             device->numeric_class(), job.batch.micro_batches, job.batch.sequences,
             describe(job, trainer->map(), measured.took), prepared, first_loss, measured.loss,
             hash_of(std::span<const float>(parameters)).hex());
  return choices.size() < 2 ? ok_status() : compare(*device, *trainer, job, steps, choices);
}

}  // namespace
}  // namespace planaria

int main(int argc, char** argv) {
  if (argc < 5) {
    fmt::print(stderr, "usage: training_gpu 124M|355M|1558M SEQUENCES MICRO_BATCHES STEPS [CHOICES ...]\n");
    return 2;
  }
  const auto number = [&](int i) { return static_cast<std::uint32_t>(std::strtoul(argv[i], nullptr, 10)); };
  const auto job = planaria::job_of(argv[1], number(2), std::max(1U, number(3)));
  const planaria::Status done =
      job ? planaria::measure(argv[1], *job, std::max(1U, number(4)), {argv + 5, argv + argc}) : job.error();
  if (done) return 0;
  fmt::print(stderr, "training_gpu: {}\n", done.error().describe());
  return 1;
}
