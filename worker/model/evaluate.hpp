// What a model says of tokens that it isn't trained on: the loss, and the logits themselves.
//
// The training part of a dataset is taken window by window, in order, each for itself: position t of a window sees the
// tokens from the window's start. Without dropout.
//
// Thread contract: belongs to the thread that owns the device.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "common/result.hpp"
#include "kernels/device.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"
#include "worker/data/dataset.hpp"

namespace planaria {

struct Evaluation {
  double loss = 0;  // mean over the tokens, nats
  std::uint64_t windows = 0;
  std::uint64_t tokens = 0;  // that were predicted
};

// Sees the logits of each window in turn: [dataset.context(), model.vocab], host memory, valid during the call. An
// error ends the evaluation.
using LogitsSink = std::function<Status(std::span<const float>)>;

// `parameters`: the whole flat vector, device memory. `logits` may be empty.
// Preconditions: the dataset was opened with the model's vocabulary, and a context that isn't longer than the model's.
[[nodiscard]] Result<Evaluation> evaluate(TensorDevice& device, const ModelSpec& model, const StateMap& map,
                                          const float* parameters, const Dataset& dataset,
                                          const LogitsSink& logits = {});

}  // namespace planaria
