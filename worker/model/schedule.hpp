// The learning rate of each step: a pure function of the job and the step, without a C library's functions, so that
// every machine takes the same rate to the last bit.
//
//   warm-up   (all kinds)  step t <= warmup_steps: learning_rate · t / warmup_steps
//   constant  learning_rate
//   cosine    from learning_rate after the warm-up along half a cosine to min_learning_rate at the last step
//   wsd       learning_rate, then linearly to min_learning_rate over the last decay_fraction of all steps
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>

#include "common/ids.hpp"
#include "proto/job_spec.hpp"

namespace planaria {

// Precondition: step >= 1. Steps after `total_steps` take the last step's rate.
[[nodiscard]] double learning_rate(const OptimizerSpec& optimizer, std::uint64_t total_steps, Step step);

// 1 - beta^t, AdamW's bias correction.
[[nodiscard]] double bias_correction(double beta, Step step);

}  // namespace planaria
