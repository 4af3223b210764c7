// `planaria simulate --policy …`: a large fleet on a trace of capacity, under one policy or several.
//
// Thread contract: main thread.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>

namespace planaria {

// Adds the options; the function runs what they ask for, or is to be ignored while the bool is false.
struct FleetCommand {
  std::shared_ptr<bool> asked;
  std::function<int()> run;
};
[[nodiscard]] FleetCommand add_fleet_options(CLI::App& command);

}  // namespace planaria
