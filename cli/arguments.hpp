// What the subcommands share of reading arguments and of reporting errors.
//
// Thread contract: free functions; use from the main thread.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>

#include "common/exit_code.hpp"
#include "common/result.hpp"

namespace planaria {

// Decimal digits for a number from `min` to `max`. CLI11's own reading takes -1 for 2^64 - 1 and 010 for 8.
[[nodiscard]] CLI::Validator whole_number(std::uint64_t min = 0,
                                          std::uint64_t max = std::numeric_limits<std::uint64_t>::max());

// A finite number from `min` to `max`.
[[nodiscard]] CLI::Validator number_between(double min, double max);

// Of --device, where it may be left out.
inline constexpr const char* kDeviceHelp =
    "what to compute on: cpu, cuda, cuda:0 and so on, or auto (a GPU where one can be used); default the job's "
    "(cluster.device)";

// Of --device, where fp32 is computed and a CPU is the default.
inline constexpr const char* kModelDeviceHelp =
    "what to compute on, in fp32: cpu, cuda, cuda:0 and so on, or auto (a GPU where one can be used)";

// Of --precision, where it may be left out.
inline constexpr const char* kPrecisionHelp =
    "to train in: bf16 (GPUs only), fp32, or auto (bf16 on a GPU); default the job's (cluster.precision)";

// Prints "planaria: message" on standard error and returns the error's exit code.
int fail(const Error& error);

}  // namespace planaria
