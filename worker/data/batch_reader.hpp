// Micro-batches of a source, the next of them read while a device is busy with the one before.
//
// Thread contract: belongs to one thread.
#pragma once

#include <functional>
#include <optional>
#include <utility>

#include "common/ids.hpp"
#include "kernels/micro_batch.hpp"
#include "worker/data/batch.hpp"
#include "worker/data/dataset.hpp"
#include "worker/data/sampling.hpp"

namespace planaria {

// Fills a micro-batch of a step: the same for the same arguments, in whatever order they come.
using BatchSource = std::function<void(Step, MicroBatchIndex, HostBatch&)>;

// A source that reads a dataset; both must outlive it.
[[nodiscard]] BatchSource dataset_source(const Dataset& dataset, const WindowOrder& order, BatchShape shape);

class BatchReader {
 public:
  explicit BatchReader(BatchSource source) : source_(std::move(source)) {}

  // Valid until the next call of read().
  [[nodiscard]] const HostBatch& read(Step step, MicroBatchIndex micro_batch);
  // Called between queueing work on a device and waiting for it, with what read() is probably asked for next.
  void read_ahead(Step step, MicroBatchIndex micro_batch);

 private:
  struct Held {
    std::optional<std::pair<Step, MicroBatchIndex>> which;
    HostBatch batch;
  };
  void fill(Held& held, Step step, MicroBatchIndex micro_batch);

  BatchSource source_;
  Held current_, next_;
};

}  // namespace planaria
