// The training curves as files: `metrics.jsonl`, one JSON object a committed step, and TensorBoard event files.
//
// Metrics never stop training: a line that can't be written is lost and told, the next one is tried again, and what
// was torn by the failure is closed off so that readers find everything after it. docs/FORMATS.md has both formats.
//
// Thread contract: a writer belongs to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "common/file.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"

namespace planaria {

// One committed step.
struct StepMetrics {
  Step step;
  ViewNumber view;
  std::uint32_t workers = 0;
  double loss = 0;  // mean over the step's tokens, nats
  std::optional<double> validation_loss;
  double learning_rate = 0;
  double gradient_norm = 0;  // before clipping
  double tokens_per_s = 0;
  double step_s = 0;       // from commit to commit
  double unix_time_s = 0;  // of the commit
};

// One line, with its newline. Values that are not finite become null.
[[nodiscard]] std::string render_jsonl(const StepMetrics& metrics);

class JsonlWriter {
 public:
  // Goes on at the end of an existing file; a torn last line is closed off first.
  [[nodiscard]] static Result<JsonlWriter> open(FileSystem& fs, const std::string& path);
  [[nodiscard]] Status append(const StepMetrics& metrics);

 private:
  JsonlWriter(std::unique_ptr<WritableFile> file, bool torn) : file_(std::move(file)), torn_(torn) {}

  std::unique_ptr<WritableFile> file_;
  bool torn_;  // the file ends inside a line
};

struct TensorboardOptions {
  std::string directory;
  std::string host = "localhost";  // part of the file's name
  std::uint64_t unix_time_s = 0;   // of the start; part of the file's name, so that files sort by age
  Step first_step{1};              // TensorBoard forgets what earlier files say of this and later steps
};

class TensorboardWriter {
 public:
  // The directory and the first file are made by the first append.
  TensorboardWriter(FileSystem& fs, TensorboardOptions options) : fs_(&fs), options_(std::move(options)) {}
  [[nodiscard]] Status append(const StepMetrics& metrics);

 private:
  Status open_file(Step first_step, double unix_time_s);

  FileSystem* fs_;
  TensorboardOptions options_;
  std::unique_ptr<WritableFile> file_;  // none before the first append and after a failure
  std::uint32_t files_ = 0;
};

struct MetricsOptions {
  std::string directory;  // gets metrics.jsonl and tensorboard/
  bool jsonl = true;
  bool tensorboard = true;
  std::string host = "localhost";
  std::uint64_t unix_time_s = 0;
  Step first_step{1};
};

// Both, as the job wants them.
class MetricsWriter {
 public:
  [[nodiscard]] static Result<MetricsWriter> open(FileSystem& fs, const MetricsOptions& options);
  // Tries both; the first failure is returned.
  [[nodiscard]] Status append(const StepMetrics& metrics);

 private:
  std::optional<JsonlWriter> jsonl_;
  std::optional<TensorboardWriter> tensorboard_;
};

}  // namespace planaria
