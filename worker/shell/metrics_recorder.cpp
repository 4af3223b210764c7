#include "worker/shell/metrics_recorder.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "common/log.hpp"

namespace planaria {

namespace {

constexpr std::size_t kRemembered = 64;
constexpr std::uint64_t kTailBytes = 64U << 10;

}  // namespace

Step last_recorded_step(FileSystem& files, const std::string& path) {
  const auto file = files.open(path);
  if (!file) return Step(0);
  const std::uint64_t size = (*file)->size();
  std::string tail(std::min(size, kTailBytes), '\0');
  const auto read = (*file)->read_at(size - tail.size(), std::as_writable_bytes(std::span(tail.data(), tail.size())));
  if (!read) return Step(0);
  tail.resize(*read);
  // From the last line backwards, the first that can be read.
  while (!tail.empty()) {
    while (!tail.empty() && tail.back() == '\n') tail.pop_back();
    const std::size_t begin = tail.rfind('\n') == std::string::npos ? 0 : tail.rfind('\n') + 1;
    const auto line = nlohmann::json::parse(tail.substr(begin), nullptr, false);
    if (line.is_object() && line.contains("step") && line["step"].is_number_unsigned()) {
      return Step(line["step"].get<std::uint64_t>());
    }
    tail.resize(begin);
  }
  return Step(0);
}

MetricsRecorder::MetricsRecorder(FileSystem& files, MetricsOptions options)
    : files_(files), options_(std::move(options)), thread_([this] { work(); }) {}

MetricsRecorder::~MetricsRecorder() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void MetricsRecorder::record(const StepMetrics& metrics, bool writer) {
  remembered_.push_back(metrics);
  if (remembered_.size() > kRemembered) remembered_.pop_front();
  if (!writer) return;
  {
    const std::scoped_lock lock(mutex_);
    queue_.insert(queue_.end(), remembered_.begin(), remembered_.end());
  }
  remembered_.clear();
  changed_.notify_one();
}

void MetricsRecorder::work() {
  const Log log("metrics");
  std::optional<MetricsWriter> writer;
  Step last;
  bool told = false;
  while (true) {
    std::deque<StepMetrics> todo;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      todo.swap(queue_);
    }
    // Another member may have written in between: the file tells.
    last = std::max(last, last_recorded_step(files_, join_path(options_.directory, "metrics.jsonl")));
    Status written = ok_status();
    for (const StepMetrics& metrics : todo) {
      if (metrics.step <= last) continue;
      if (!writer) {
        MetricsOptions options = options_;
        options.first_step = metrics.step;
        auto opened = MetricsWriter::open(files_, options);
        if (!opened) {
          written = opened.error();
          continue;
        }
        writer = std::move(opened).value();
      }
      written = writer->append(metrics);
      last = metrics.step;
    }
    if (!written && !told)
      log.warning("training goes on, but a metrics file can't be written", {{"why", written.error().message()}});
    told = !written.ok();
  }
}

}  // namespace planaria
