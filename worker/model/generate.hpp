// Text from a trained model, token by token.
//
// Each token is one forward pass over the tokens so far; when the context is full its older half is dropped. The
// choice of token k is drawn from Philox(philox_key(seed, sampling), 0, k), so that a sample can be had again.
//
// Thread contract: belongs to the thread that owns the device.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/result.hpp"
#include "kernels/device.hpp"
#include "proto/job_spec.hpp"
#include "proto/state_map.hpp"

namespace planaria {

struct GenerateOptions {
  std::uint32_t tokens = 300;
  double temperature = 0.8;  // 0 = always the most likely token, the lower id of equals
  std::uint32_t top_k = 0;   // choose among this many most likely tokens; 0 = all
  std::uint64_t seed = 1;
};

// `parameters`: the whole flat vector, device memory. `on_token` (may be empty) sees each new token as it comes and
// ends the text early by returning false. Returns the new tokens. An empty prompt, or tokens outside the vocabulary,
// are errors.
[[nodiscard]] Result<std::vector<std::int32_t>> generate(TensorDevice& device, const ModelSpec& model,
                                                         const StateMap& map, const float* parameters,
                                                         std::span<const std::int32_t> prompt,
                                                         const GenerateOptions& options,
                                                         const std::function<bool(std::int32_t)>& on_token = {});

// One choice from logits, as `options` say; `draw` is uniform in [0, 1).
[[nodiscard]] std::int32_t choose_token(std::span<const float> logits, const GenerateOptions& options, double draw);

}  // namespace planaria
