#include <CLI/CLI.hpp>
#include <memory>

#include "cli/agent_command.hpp"
#include "cli/arguments.hpp"
#include "cli/commands.hpp"

namespace planaria {

void add_keeper(CLI::App& app, int& code) {
  auto* command =
      app.add_subcommand("keeper", "Hold snapshots of this host's workers, and parity of others', in memory");
  command->footer(
      "Examples:\n  planaria keeper --join 10.0.0.1:7070 --listen /run/planaria/keeper\n"
      "  planaria worker --join 10.0.0.1:7070 --keeper /run/planaria/keeper\n\n"
      "One a host, started before or after its workers. The job comes from the coordinator; data and a device aren't\n"
      "needed. Memory: three times its workers' share of the state, which is 12 bytes a parameter, and of the parity\n"
      "that it keeps of others; docs/OPERATING.md has the formula. SIGTERM drains it.");
  auto arguments = std::make_shared<AgentArguments>();
  WorkerOptions& options = arguments->options;
  options.role = Role::keeper;
  add_agent_arguments(*command, *arguments);
  command->add_option("--listen", options.keeper_socket, "socket at which this host's workers hand over their state")
      ->required();
  command->add_option("--out", options.out_directory, "directory of its log")->capture_default_str();
  command->add_option("--memory-mb", options.memory_mb, "MiB that snapshots may take; default half of the machine's")
      ->transform(whole_number(0, UINT32_MAX));
  command->callback([arguments, &code] { code = run_agent(*arguments, agent_options(*arguments)); });
}

}  // namespace planaria
