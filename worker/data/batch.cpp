#include "worker/data/batch.hpp"

#include <span>

namespace planaria {
namespace {

void resize(HostBatch& out, std::size_t sequences, std::size_t context) {
  out.tokens.resize(sequences * context);
  out.targets.resize(sequences * context);
  out.samples.resize(sequences);
}

void read_row(const Dataset& dataset, Split split, std::uint64_t window, std::size_t row, HostBatch& out) {
  const std::size_t context = dataset.context();
  dataset.read(split, window, std::span(out.tokens).subspan(row * context, context),
               std::span(out.targets).subspan(row * context, context));
}

}  // namespace

void read_training_batch(const Dataset& dataset, const WindowOrder& order, BatchShape shape, Step step,
                         MicroBatchIndex micro_batch, HostBatch& out) {
  resize(out, shape.sequences, dataset.context());
  for (std::uint32_t j = 0; j < shape.sequences; ++j) {
    out.samples[j] = sequence_index(shape, step, micro_batch, j);
    read_row(dataset, Split::train, order.window(out.samples[j]), j, out);
  }
}

void read_validation_batch(const Dataset& dataset, std::uint32_t sequences, std::uint32_t index, std::uint32_t count,
                           HostBatch& out) {
  resize(out, sequences, dataset.context());
  const std::uint64_t total = std::uint64_t{count} * sequences;
  for (std::uint32_t j = 0; j < sequences; ++j) {
    out.samples[j] = std::uint64_t{index} * sequences + j;
    const std::uint64_t window = validation_window(out.samples[j], total, dataset.windows(Split::validation));
    read_row(dataset, Split::validation, window, j, out);
  }
}

}  // namespace planaria
