#include "worker/metrics/metrics.hpp"

#include <nlohmann/json.hpp>
#include <utility>

namespace planaria {

std::string render_jsonl(const StepMetrics& metrics) {
  nlohmann::ordered_json line = {{"step", metrics.step.value()},         {"view", metrics.view.value()},
                                 {"workers", metrics.workers},           {"loss", metrics.loss},
                                 {"lr", metrics.learning_rate},          {"grad_norm", metrics.gradient_norm},
                                 {"tokens_per_s", metrics.tokens_per_s}, {"step_s", metrics.step_s},
                                 {"time", metrics.unix_time_s}};
  if (metrics.validation_loss) line["val_loss"] = *metrics.validation_loss;
  return line.dump() + "\n";
}

Result<JsonlWriter> JsonlWriter::open(FileSystem& fs, const std::string& path) {
  bool torn = false;
  if (const auto existing = fs.open(path); existing) {
    std::byte last{'\n'};
    const std::uint64_t size = (*existing)->size();
    if (size != 0) PLANARIA_TRY((*existing)->read_at(size - 1, std::span(&last, 1)));
    torn = last != std::byte{'\n'};
  } else if (existing.error().code() != ErrorCode::not_found) {
    return existing.error();
  }
  PLANARIA_ASSIGN(auto file, fs.open_append(path));
  return JsonlWriter(std::move(file), torn);
}

Status JsonlWriter::append(const StepMetrics& metrics) {
  std::string line = render_jsonl(metrics);
  if (torn_) line.insert(line.begin(), '\n');
  const Status written = file_->append(line);
  torn_ = !written;
  return written;
}

Result<MetricsWriter> MetricsWriter::open(FileSystem& fs, const MetricsOptions& options) {
  PLANARIA_TRY(fs.make_directories(options.directory));
  MetricsWriter writer;
  if (options.jsonl) {
    PLANARIA_ASSIGN(writer.jsonl_, JsonlWriter::open(fs, join_path(options.directory, "metrics.jsonl")));
  }
  if (options.tensorboard) {
    writer.tensorboard_.emplace(fs, TensorboardOptions{join_path(options.directory, "tensorboard"), options.host,
                                                       options.unix_time_s, options.first_step});
  }
  return writer;
}

Status MetricsWriter::append(const StepMetrics& metrics) {
  Status jsonl = jsonl_ ? jsonl_->append(metrics) : ok_status();
  Status tensorboard = tensorboard_ ? tensorboard_->append(metrics) : ok_status();
  return jsonl ? tensorboard : jsonl;
}

}  // namespace planaria
