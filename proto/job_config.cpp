#include "proto/job_config.hpp"

#include <algorithm>
#include <bit>
#include <set>

#include "proto/job_keys.hpp"

namespace planaria {
namespace {

// Passes everything on to a ConfigReader and remembers which keys were given.
class Recorder {
 public:
  explicit Recorder(ConfigReader& reader) : reader_(reader) {}

  void section(std::string_view name) {
    section_ = name;
    reader_.section(name);
  }
  template <class... T>
  void key(std::string_view name, T&&... arguments) {
    note(name, reader_.key(name, std::forward<T>(arguments)...));
  }
  void path(std::string_view name, std::string& value) { note(name, reader_.path(name, value)); }
  void secret(std::string_view name, std::string& value) { note(name, reader_.secret(name, value)); }

  [[nodiscard]] bool given(const std::string& key) const { return given_.contains(key); }

 private:
  void note(std::string_view name, bool was_given) {
    if (was_given) given_.insert(section_ + "." + std::string(name));
  }
  ConfigReader& reader_;
  std::string section_;
  std::set<std::string> given_;
};

void derive(JobSpec& job, const Recorder& keys) {
  ModelSpec& model = job.model;
  if (!keys.given("model.kv_heads")) model.kv_heads = model.heads;
  if (!keys.given("model.ffn_width")) {
    model.ffn_width = model.family == ModelFamily::gpt2 ? 4 * model.width : (model.width * 8 / 3 + 63) / 64 * 64;
  }
  if (!keys.given("batch.slots")) job.batch.slots = 1U << std::min(16, std::countr_zero(job.batch.micro_batches));
  OptimizerSpec& optimizer = job.optimizer;
  if (!keys.given("optimizer.min_learning_rate")) optimizer.min_learning_rate = optimizer.learning_rate / 10;
  if (!keys.given("optimizer.warmup_steps")) {
    optimizer.warmup_steps = std::min(optimizer.warmup_steps, job.train.steps / 10);
  }
  if (!keys.given("cluster.min_workers")) {
    job.cluster.min_workers = std::min(job.cluster.min_workers, job.cluster.workers);
  }
}

Result<JobSpec> read_job(Result<ConfigReader> opened, const std::string& source) {
  PLANARIA_ASSIGN(ConfigReader reader, std::move(opened));
  JobSpec job;
  Recorder recorder(reader);
  visit_job_keys(recorder, job);
  PLANARIA_TRY(reader.finish());
  derive(job, recorder);
  if (const Status valid = validate(job); !valid) {
    return Error(valid.error().code(), source + ":\n" + valid.error().message());
  }
  return job;
}

}  // namespace

Result<JobSpec> load_job(const std::string& path, std::span<const std::string> assignments,
                         const Environment& environment) {
  return read_job(ConfigReader::from_file(path, assignments, environment), path);
}

Result<JobSpec> parse_job(std::string_view text, std::string source, std::span<const std::string> assignments,
                          const Environment& environment) {
  return read_job(ConfigReader::from_text(text, source, assignments, environment), source);
}

std::string job_to_toml(const JobSpec& job) {
  ConfigWriter writer;
  visit_job_keys(writer, job);
  return writer.text();
}

std::string model_to_toml(const JobSpec& job) {
  ConfigWriter writer;
  visit_model_keys(writer, job);
  return writer.text();
}

}  // namespace planaria
