#include "storage/checkpoint_writer.hpp"

#include <fmt/format.h>

#include <utility>

namespace planaria {

std::string describe(const CheckpointReport& report) {
  if (!report.result) return report.result.error().message();
  const auto& left = report.result->pruning_failure;
  return report.result->path + (left ? "; older ones could not be pruned: " + left->message() : "");
}

CheckpointWriter::CheckpointWriter(FileSystem& fs, const Clock& clock, const StateMap& map, ModelSpec model,
                                   WriteOptions options, CheckpointIdentity identity, Callback callback)
    : fs_(fs),
      clock_(clock),
      map_(map),
      model_(std::move(model)),
      options_(std::move(options)),
      identity_(std::move(identity)),
      callback_(std::move(callback)),
      thread_([this] { work(); }) {}

CheckpointWriter::~CheckpointWriter() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

TrainState CheckpointWriter::buffer() {
  {
    const std::lock_guard lock(mutex_);
    if (spare_) return *std::exchange(spare_, std::nullopt);
  }
  TrainState state;
  state.master.resize(map_.vector_elements());
  state.first_moment.resize(map_.vector_elements());
  state.second_moment.resize(map_.vector_elements());
  return state;
}

Status CheckpointWriter::submit(TrainState&& state) {
  {
    const std::lock_guard lock(mutex_);
    if (waiting_) {
      return Error(ErrorCode::unavailable,
                   fmt::format("the checkpoint of step {} still waits for the one before it; raise "
                               "checkpoint.every_steps or use a faster disk",
                               waiting_->step.value()));
    }
    waiting_ = std::move(state);
  }
  changed_.notify_all();
  return ok_status();
}

void CheckpointWriter::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !waiting_ && !busy_; });
}

void CheckpointWriter::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return waiting_ || stopping_; });
    if (!waiting_) return;
    TrainState state = *std::exchange(waiting_, std::nullopt);
    busy_ = true;
    lock.unlock();

    const Instant started = clock_.now();
    auto result = write_checkpoint(fs_, options_, identity_, model_, map_, state);
    const CheckpointReport report{state.step, std::move(result), clock_.now() - started};
    if (callback_) callback_(report);

    lock.lock();
    spare_ = std::move(state);
    busy_ = false;
    changed_.notify_all();
  }
}

}  // namespace planaria
