// Devices by choice: the CPU, or GPUs by way of a library that is loaded when one is asked for.
//
// Thread contract: any thread.
#pragma once

#include <cstdint>
#include <memory>

#include "common/result.hpp"
#include "kernels/device.hpp"
#include "proto/device_choice.hpp"

namespace planaria {

struct MadeDevice {
  std::unique_ptr<Device> device;
  std::string why_not_gpu;  // where a GPU was asked for if one can be used, and none can
};

// A choice of "auto" for the precision is bf16 on a GPU and fp32 on a CPU.
// not_found: the library isn't installed beside this executable; unavailable: it finds no driver, or no such GPU;
// unsupported: it has no code for that GPU, or bf16 was asked for and there is a CPU only; mismatch: it is of another
// build.
[[nodiscard]] Result<MadeDevice> make_device(const DeviceChoice& choice, const CpuOptions& cpu);

// GPUs of this machine that make_device() may be asked for by their index; errors as there.
[[nodiscard]] Result<std::uint32_t> count_gpus();

}  // namespace planaria
