// A model of few parameters, for tests that look at its blocks and tiles only.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>

#include "proto/job_spec.hpp"

namespace planaria {

inline ModelSpec small_model(std::uint32_t layers = 1, std::uint32_t vocab = 16) {
  ModelSpec model;
  model.layers = layers;
  model.heads = model.kv_heads = 1;
  model.width = 16;
  model.ffn_width = 32;
  model.vocab = vocab;
  model.context = 16;
  return model;
}

}  // namespace planaria
