// Micro-batches read from a dataset.
//
// Thread contract: pure functions of the dataset; a HostBatch belongs to one thread.
#pragma once

#include <cstdint>

#include "common/ids.hpp"
#include "kernels/micro_batch.hpp"
#include "worker/data/dataset.hpp"
#include "worker/data/sampling.hpp"

namespace planaria {

// Micro-batch i of step t, as worker/data/sampling.hpp defines it. Allocates only when `out` grows.
// Precondition: order.windows() == dataset.windows(Split::train).
void read_training_batch(const Dataset& dataset, const WindowOrder& order, BatchShape shape, Step step,
                         MicroBatchIndex micro_batch, HostBatch& out);

// Micro-batch `index` of an evaluation of `count` micro-batches: always the same validation windows, evenly spread.
// Precondition: the dataset has a validation window.
void read_validation_batch(const Dataset& dataset, std::uint32_t sequences, std::uint32_t index, std::uint32_t count,
                           HostBatch& out);

}  // namespace planaria
