// Job files: TOML to JobSpec and back. Keys and ranges: proto/job_keys.hpp; what contradicts what: validate().
//
// Thread contract: pure functions over their arguments (load_job reads the file).
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "common/config.hpp"
#include "common/result.hpp"
#include "proto/job_spec.hpp"

namespace planaria {

// Reads and validates a job. `assignments` are "section.key=value"; they win over `environment`
// (PLANARIA_SECTION_KEY), which wins over the file, which wins over the defaults. Keys that follow from others are
// derived when they aren't given:
//   model.kv_heads = heads; model.ffn_width = 4 · width (gpt2) or 8/3 · width rounded up to 64s (llama)
//   batch.slots = the largest power of two that divides micro_batches
//   optimizer.min_learning_rate = learning_rate / 10; optimizer.warmup_steps = at most a tenth of train.steps
//   cluster.min_workers, when cluster.workers is below its default
// The message of a failure lists every problem with its place.
[[nodiscard]] Result<JobSpec> load_job(const std::string& path, std::span<const std::string> assignments = {},
                                       const Environment& environment = {});
// The same for text in memory; `source` stands for the file's name in messages.
[[nodiscard]] Result<JobSpec> parse_job(std::string_view text, std::string source,
                                        std::span<const std::string> assignments = {},
                                        const Environment& environment = {});

// Every key with its value. Loading it gives the same job, but for security.join_token: secrets are not written.
[[nodiscard]] std::string job_to_toml(const JobSpec& job);
// Its [model] table alone.
[[nodiscard]] std::string model_to_toml(const JobSpec& job);

}  // namespace planaria
