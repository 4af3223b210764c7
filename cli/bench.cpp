#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "common/config.hpp"
#include "common/median.hpp"
#include "kernels/make_device.hpp"
#include "proto/job_config.hpp"
#include "worker/data/dataset.hpp"
#include "worker/data/sampling.hpp"
#include "worker/model/bare_loop.hpp"

namespace planaria {
namespace {

struct BenchArguments {
  JobArguments job;
  std::uint32_t steps = 5;
  std::uint32_t rounds = 1;
  bool in_turns = false;
  std::uint32_t threads = 2;
  std::string device, precision;  // empty: the job's
};

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Multiply-adds of a training step count twice, backward twice as much as forward: 6 a parameter and token, and
// 12 · layers · width · context / 2 a token for causal attention.
double operations_per_token(const ModelSpec& model, std::uint64_t parameters) {
  const double attention = 12.0 * model.layers * model.width * model.context / 2;
  return 6.0 * static_cast<double>(parameters) + attention;
}

void await_line() {
  for (int c = std::getchar(); c != '\n' && c != EOF; c = std::getchar()) {
  }
}

Status bench(const BenchArguments& arguments) {
  PLANARIA_ASSIGN(const JobSpec job, load_job(arguments.job.file, arguments.job.assignments, process_environment()));
  Precision precision = job.cluster.precision;
  if (!arguments.precision.empty()) {
    PLANARIA_ASSIGN(precision, parse_precision(arguments.precision));
  }
  PLANARIA_ASSIGN(const DeviceChoice choice,
                  parse_device(arguments.device.empty() ? job.cluster.device : arguments.device, precision));
  PLANARIA_ASSIGN(const MadeDevice made, make_device(choice, {.threads = arguments.threads}));
  Device& device = *made.device;
  if (!made.why_not_gpu.empty()) fmt::print("on the CPU: {}\n", made.why_not_gpu);
  PLANARIA_ASSIGN(const Dataset dataset, Dataset::open(job.data, job.model.context, job.model.vocab));
  const WindowOrder order(job.train.seed, dataset.windows(Split::train));
  PLANARIA_ASSIGN(
      const auto trainer,
      BareTrainer::create(device, job, dataset_source(dataset, order, {job.batch.micro_batches, job.batch.sequences})));
  fmt::print("{} parameters, {} threads, {}\n", trainer->map().parameter_count(), arguments.threads,
             device.numeric_class());
  PLANARIA_TRY(trainer->step());
  fmt::print("step 1 touched memory and filled caches\n");
  std::fflush(stdout);
  std::vector<double> rates;
  for (std::uint32_t i = 0; i < arguments.rounds * arguments.steps; ++i) {
    if (arguments.in_turns && i % arguments.steps == 0) await_line();
    const auto start = std::chrono::steady_clock::now();
    PLANARIA_TRY(trainer->step());
    rates.push_back(static_cast<double>(job.tokens_per_step()) / seconds_since(start));
    fmt::print("step {}: {:.0f} tokens/s\n", i + 2, rates.back());
    std::fflush(stdout);
  }
  const auto [slowest, fastest] = std::ranges::minmax(rates);
  const double usual = median(rates);
  const double operations = operations_per_token(job.model, trainer->map().parameter_count());
  fmt::print("bare loop: {:.0f} tokens/s (of {} steps: {:.0f} to {:.0f}), {:.1f} GFLOP/s\n", usual, rates.size(),
             slowest, fastest, usual * operations / 1e9);
  return ok_status();
}

}  // namespace

void add_bench(CLI::App& app, int& code) {
  auto* command = app.add_subcommand("bench", "Measure the bare training loop of a job on this machine");
  command->footer("Example:\n  planaria bench examples/gpt_11m.toml --threads 2");
  auto arguments = std::make_shared<BenchArguments>();
  add_job_arguments(*command, arguments->job);
  command->add_option("--steps", arguments->steps, "measured, after one that isn't")
      ->capture_default_str()
      ->transform(whole_number(1, 1'000'000));
  command->add_option("--rounds", arguments->rounds, "so many times as many")
      ->capture_default_str()
      ->transform(whole_number(1, 1000));
  command->add_flag("--in-turns", arguments->in_turns, "wait for a line on standard input before each round");
  command->add_option("--threads", arguments->threads, "compute threads")
      ->capture_default_str()
      ->transform(whole_number(1, 1024));
  command->add_option("--device", arguments->device, kDeviceHelp);
  command->add_option("--precision", arguments->precision, kPrecisionHelp);
  command->callback([arguments, &code] {
    const Status done = bench(*arguments);
    code = done ? 0 : fail(done.error());
  });
}

}  // namespace planaria
