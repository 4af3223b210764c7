#include "worker/model/probe.hpp"

#include <bit>
#include <span>

#include "common/philox.hpp"
#include "worker/model/bare_loop.hpp"

namespace planaria {
namespace {

constexpr std::uint64_t kProbeSeed = 20;
constexpr std::uint64_t kProbeSteps = 2;

JobSpec probe_job(ModelFamily family) {
  const bool gpt2 = family == ModelFamily::gpt2;
  JobSpec job;
  job.model = {.family = family,
               .layers = 2,
               .heads = 4,
               .kv_heads = gpt2 ? 4U : 2U,
               .width = 64,
               .ffn_width = gpt2 ? 256U : 176U,
               .vocab = 256,
               .context = 48,
               .tied_embedding = gpt2,
               .dropout = gpt2 ? 0.1 : 0.0};
  job.batch = {.micro_batches = 4, .sequences = 2, .slots = 2};
  job.optimizer.warmup_steps = 1;
  job.optimizer.clip_norm = 0.5;
  job.train.steps = kProbeSteps;
  job.train.seed = kProbeSeed;
  job.train.tile_elements = 4096;
  return job;
}

BatchSource random_tokens(const JobSpec& job) {
  return [&job](Step step, MicroBatchIndex micro_batch, HostBatch& out) {
    const std::size_t rows = std::size_t{job.batch.sequences} * job.model.context;
    out.tokens.resize(rows);
    out.targets.resize(rows);
    out.samples.resize(job.batch.sequences);
    PhiloxStream random(philox_key(kProbeSeed, RandomPurpose::data_order), (step.value() << 32) | micro_batch.value());
    for (std::size_t i = 0; i < rows; ++i) {
      out.tokens[i] = static_cast<std::int32_t>(random.below(job.model.vocab));
      out.targets[i] = static_cast<std::int32_t>(random.below(job.model.vocab));
    }
    for (std::uint32_t j = 0; j < job.batch.sequences; ++j) {
      out.samples[j] = sequence_index({job.batch.micro_batches, job.batch.sequences}, step, micro_batch, j);
    }
  };
}

}  // namespace

Result<Hash128> probe_numeric_class(Device& device) {
  Hasher hasher;
  hasher.update(device.numeric_class());
  if (TensorDevice* const tensors = device.tensor_device(); tensors != nullptr) {
    PLANARIA_ASSIGN(const Hash128 kernels, probe_kernels(*tensors));
    hasher.update(kernels);
  }
  for (const ModelFamily family : {ModelFamily::gpt2, ModelFamily::llama}) {
    const JobSpec job = probe_job(family);
    PLANARIA_ASSIGN(const auto trainer, BareTrainer::create(device, job, random_tokens(job)));
    for (std::uint64_t t = 0; t < kProbeSteps; ++t) {
      PLANARIA_ASSIGN(const BareStepReport report, trainer->step());
      hasher.update(std::bit_cast<std::uint64_t>(report.loss));
      hasher.update(std::bit_cast<std::uint64_t>(report.gradient_norm));
      hasher.update(std::bit_cast<std::uint64_t>(report.learning_rate));
    }
    const std::vector<float> parameters = trainer->parameters_on_host();
    hasher.update(std::as_bytes(std::span(parameters)));
  }
  return hasher.digest();
}

}  // namespace planaria
