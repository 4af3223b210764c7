// What `planaria worker` and `planaria keeper` share: how they find the coordinator, who they are, and their lives.
//
// Thread contract: use from the main thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/arguments.hpp"
#include "cli/process_log.hpp"
#include "common/result.hpp"
#include "worker/shell/agent.hpp"

namespace CLI {
class App;
}

namespace planaria {

struct AgentArguments {
  LogArguments log;
  std::string join;
  std::optional<std::uint32_t> id;
  WorkerOptions options;
};

void add_agent_arguments(CLI::App& command, AgentArguments& arguments);
[[nodiscard]] Result<WorkerOptions> agent_options(const AgentArguments& arguments);
// Until the job is over, or it was released, refused or stopped. Returns the exit code.
[[nodiscard]] int run_agent(const AgentArguments& arguments, Result<WorkerOptions> options);

}  // namespace planaria
