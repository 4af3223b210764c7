// Checkpoints in the background: the trainer hands over a copy of its state and goes on; one thread hashes, writes,
// syncs and prunes. A failure (a full disk, a broken one) is told, leaves the earlier checkpoints as they are, and
// doesn't stop the next attempt.
//
// Thread contract: all methods from one owner thread; the callback runs on the writer's own thread.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "common/clock.hpp"
#include "storage/checkpoint.hpp"

namespace planaria {

struct CheckpointReport {
  Step step;
  Result<WrittenCheckpoint> result;
  Duration took{};
};

// Where it is, and why older ones could not be pruned; or why it failed.
[[nodiscard]] std::string describe(const CheckpointReport& report);

class CheckpointWriter {
 public:
  using Callback = std::function<void(const CheckpointReport&)>;

  // `fs`, `clock` and `map` outlive the writer.
  CheckpointWriter(FileSystem& fs, const Clock& clock, const StateMap& map, ModelSpec model, WriteOptions options,
                   CheckpointIdentity identity, Callback callback);
  // Finishes what was submitted.
  ~CheckpointWriter();
  CheckpointWriter(const CheckpointWriter&) = delete;
  CheckpointWriter& operator=(const CheckpointWriter&) = delete;

  // Vectors of the right size to copy a state into; those of a finished checkpoint when there are any, so that a
  // steady run allocates nothing.
  [[nodiscard]] TrainState buffer();

  // Takes the state. One waits beside the one being written; `unavailable` when one waits already (the disk is slower
  // than the schedule): nothing is taken then, and the caller decides whether to drain() or to skip.
  [[nodiscard]] Status submit(TrainState&& state);

  // Returns when all that was submitted is done and reported.
  void drain();

 private:
  void work();

  FileSystem& fs_;
  const Clock& clock_;
  const StateMap& map_;
  const ModelSpec model_;
  const WriteOptions options_;
  const CheckpointIdentity identity_;
  const Callback callback_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<TrainState> waiting_;
  std::optional<TrainState> spare_;
  bool busy_ = false;
  bool stopping_ = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace planaria
