#include "worker/data/batch_reader.hpp"

namespace planaria {

BatchSource dataset_source(const Dataset& dataset, const WindowOrder& order, BatchShape shape) {
  return [&dataset, &order, shape](Step step, MicroBatchIndex micro_batch, HostBatch& out) {
    read_training_batch(dataset, order, shape, step, micro_batch, out);
  };
}

const HostBatch& BatchReader::read(Step step, MicroBatchIndex micro_batch) {
  const std::pair wanted(step, micro_batch);
  if (current_.which != wanted && next_.which == wanted) std::swap(current_, next_);
  fill(current_, step, micro_batch);
  return current_.batch;
}

void BatchReader::read_ahead(Step step, MicroBatchIndex micro_batch) {
  if (current_.which != std::pair(step, micro_batch)) fill(next_, step, micro_batch);
}

void BatchReader::fill(Held& held, Step step, MicroBatchIndex micro_batch) {
  const std::pair wanted(step, micro_batch);
  if (held.which == wanted) return;
  held.which.reset();
  source_(step, micro_batch, held.batch);
  held.which = wanted;
}

}  // namespace planaria
