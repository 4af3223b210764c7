// The job's curves, written by whichever member is the view's checkpoint writer: each committed step once, whoever
// wrote the ones before.
//
// A new writer reads the last step in the file, and writes what it remembers of later ones first: nothing is missing
// when the former writer died just before its line.
//
// Thread contract: record() belongs to one thread and doesn't wait for the disk; an own thread writes.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "common/file.hpp"
#include "worker/metrics/metrics.hpp"

namespace planaria {

class MetricsRecorder {
 public:
  // `files` outlives this.
  MetricsRecorder(FileSystem& files, MetricsOptions options);
  // Writes what was recorded.
  ~MetricsRecorder();
  MetricsRecorder(const MetricsRecorder&) = delete;
  MetricsRecorder& operator=(const MetricsRecorder&) = delete;

  // A step that was committed here; `writer`: this member writes in the view.
  void record(const StepMetrics& metrics, bool writer);

 private:
  void work();

  FileSystem& files_;
  const MetricsOptions options_;
  std::deque<StepMetrics> remembered_;  // while another member writes

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<StepMetrics> queue_;
  bool stopping_ = false;
  std::thread thread_;
};

// The step of the last whole line of a metrics.jsonl; 0 when there is none.
[[nodiscard]] Step last_recorded_step(FileSystem& files, const std::string& path);

}  // namespace planaria
