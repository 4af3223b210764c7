// Events, actions and messages in a few words, for traces.
//
// Thread contract: pure functions.
#pragma once

#include <optional>
#include <string>

#include "coordinator/core/coordinator_core.hpp"
#include "worker/core/events.hpp"

namespace planaria::sim {

[[nodiscard]] std::string to_string(Step step);
[[nodiscard]] std::string to_string(const std::optional<Step>& step);
[[nodiscard]] std::string describe(const DataMeta& meta);
[[nodiscard]] std::string describe(const WorkerMessage& message);
[[nodiscard]] std::string describe(const CoordinatorMessage& message);
[[nodiscard]] std::string describe(const WorkerAction& action);
[[nodiscard]] std::string describe(const LogRecord& record);
[[nodiscard]] std::string describe(const ViewRecord& record);

// True for what happens all the time and explains nothing.
[[nodiscard]] bool is_routine(const WorkerMessage& message);

}  // namespace planaria::sim
