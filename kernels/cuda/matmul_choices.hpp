// The kernel table as a value: which algorithm computes which product, in bytes that other processes of a job compute
// by. Nothing here needs a GPU or its libraries.
//
//   bytes  = magic format origin count choice* hash    ; fields as common/codec.hpp writes them
//   magic  = "PLMM"
//   format = u32                                       ; 1
//   origin = gpu multiprocessors version               ; string, u32, u64
//   choice = kind rows in out out_stride bias algorithm workspace_bytes microseconds
//                                                      ; u8, 4 x u32, u8, 8 x u64, u64, f32; ascending, no shape twice
//   hash   = XXH3-128 of all before it                 ; two u64, the high half first
//
// The hash finds damage: an algorithm's bits may name another one that also runs, and rounds differently.
//
// Thread contract: plain values.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/result.hpp"
#include "kernels/cuda/matmul_shape.hpp"

namespace planaria::cuda {

inline constexpr std::uint32_t kMatmulChoicesFormat = 1;
inline constexpr std::size_t kMaxMatmulChoices = 1024;
inline constexpr std::size_t kMaxGpuName = 256;                                 // bytes
inline constexpr std::size_t kMaxMatmulChoicesBytes = std::size_t{128} * 1024;  // holds the most choices there may be

// Where an algorithm's bytes mean the same and give the same bits.
struct MatmulOrigin {
  std::string gpu;  // its product name
  std::uint32_t multiprocessors = 0;
  std::uint64_t version = 0;  // of cuBLASLt

  bool operator==(const MatmulOrigin&) const = default;

  template <class Visitor>
  void fields(Visitor& visit) {
    visit(gpu, multiprocessors, version);
  }
};
// For people: "NVIDIA H200 (132 multiprocessors) with cuBLASLt 130100".
[[nodiscard]] std::string describe(const MatmulOrigin& origin);

struct MatmulChoice {
  MatmulShape shape;
  std::array<std::uint64_t, 8> algorithm{};  // as the library serializes it
  std::uint64_t workspace_bytes = 0;
  float microseconds = 0;  // as measured: by it an engine chooses between products that come to the same

  bool operator==(const MatmulChoice&) const = default;

  template <class Visitor>
  void fields(Visitor& visit) {
    auto& a = algorithm;
    visit(shape, a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], workspace_bytes, microseconds);
  }
};

struct MatmulChoices {
  MatmulOrigin origin;
  std::vector<MatmulChoice> choices;

  bool operator==(const MatmulChoices&) const = default;

  template <class Visitor>
  void fields(Visitor& visit) {
    visit(origin, choices);
  }
};

// exhausted: more choices or a longer name than the limits allow. Precondition: the choices ascend by shape.
[[nodiscard]] Result<std::vector<std::byte>> encode_choices(const MatmulChoices& choices);
// Of bytes from anyone. What it returns encodes to these bytes. mismatch: another format; corrupt: all else, a shape
// that contradicts itself among it.
[[nodiscard]] Result<MatmulChoices> decode_choices(std::span<const std::byte> bytes);

}  // namespace planaria::cuda
