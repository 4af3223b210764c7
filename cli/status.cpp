#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <thread>

#include "chaos/faults/coordinator_file.hpp"
#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "cli/event_list.hpp"
#include "cli/http_client.hpp"
#include "cli/stop_signal.hpp"
#include "cli/terminal_view.hpp"
#include "common/file.hpp"

namespace planaria {
namespace {

struct StatusArguments {
  std::string target;
  bool as_json = false;
  bool log = false;
  std::uint32_t worker = 0;
};

// "host:port", "port", or a run's directory, whose coordinator.json names both.
Result<HttpTarget> find_target(const std::string& text) {
  if (posix_file_system().info(text)) {
    PLANARIA_ASSIGN(const CoordinatorFile file, read_coordinator_file(text));
    return HttpTarget{file.address, std::to_string(file.http_port)};
  }
  if (text.find('/') != std::string::npos) {
    return Error(ErrorCode::not_found, text + " isn't there: give a run's directory, or host:port of a coordinator");
  }
  return parse_target(text);
}

Result<nlohmann::json> fetch(const std::string& text) {
  const auto target = find_target(text);
  auto status = target ? http_get(*target, "/v1/status") : Result<nlohmann::json>(target.error());
  if (status) return status;
  // A job that has ended has no coordinator any more, but left its last status.
  std::ifstream file(text + "/result.json");
  auto result = nlohmann::json::parse(file, nullptr, false);
  return result.is_object() ? Result<nlohmann::json>(std::move(result)) : status;
}

int show_status(const StatusArguments& arguments) {
  if (arguments.log) return show_event_list(arguments.target, arguments.as_json);
  const auto status = fetch(arguments.target);
  if (!status) return fail(status.error());
  if (arguments.as_json) {
    fmt::print("{}\n", status->dump());
  } else {
    for (const std::string& line : draw_status(*status, {}, 120, false)) fmt::print("{}\n", line);
  }
  return 0;
}

int watch(const StatusArguments& arguments) {
  watch_stop_signals();
  TerminalView view(stdout);
  bool seen = false;
  while (!stop_requested()) {
    const auto status = fetch(arguments.target);
    if (!status && !seen) return fail(status.error());
    if (!status) return fail(status.error().within("the coordinator is gone"));
    seen = true;
    view.show(*status, {});
    const std::string state = status->value("status", "");
    if (state == "finished") return static_cast<int>(ExitCode::ok);
    if (state == "failed") return static_cast<int>(ExitCode::failed);
    if (state == "stopped") return static_cast<int>(ExitCode::stopped);
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
  }
  return static_cast<int>(ExitCode::stopped);
}

int drain(const StatusArguments& arguments) {
  const auto target = find_target(arguments.target);
  if (!target) return fail(target.error());
  const auto answer =
      http_post(*target, fmt::format("/v1/workers/{}/drain", arguments.worker), nlohmann::json::object());
  if (!answer) return fail(answer.error());
  fmt::print("worker {} drains: it leaves at a step boundary, once nobody needs what it holds\n", arguments.worker);
  return 0;
}

CLI::App* add(CLI::App& app, const char* name, const char* help, const std::shared_ptr<StatusArguments>& arguments) {
  auto* command = app.add_subcommand(name, help);
  command->add_option("COORDINATOR", arguments->target, "host:port of its HTTP interface, or a run's directory")
      ->required();
  return command;
}

}  // namespace

void add_status(CLI::App& app, int& code) {
  auto arguments = std::make_shared<StatusArguments>();
  auto* status = add(app, "status", "Show a job's state once", arguments);
  status->footer(
      "Examples:\n  planaria status runs/quickstart\n  planaria status 127.0.0.1:7071 --json\n"
      "  planaria status runs/quickstart --log");
  status->add_flag("--json", arguments->as_json, "as JSON");
  status->add_flag("--log", arguments->log, "the records of the coordinator's log instead; needs the run's directory");
  status->callback([arguments, &code] { code = show_status(*arguments); });

  auto* watching = add(app, "watch", "Show a job's state until it ends", arguments);
  watching->footer("Example:\n  planaria watch 127.0.0.1:7071");
  watching->callback([arguments, &code] { code = watch(*arguments); });

  auto* draining = add(app, "drain", "Let a worker leave without loss", arguments);
  draining->footer("Example:\n  planaria drain runs/quickstart 2");
  draining->add_option("WORKER", arguments->worker, "its number")->required()->transform(whole_number(0, UINT32_MAX));
  draining->callback([arguments, &code] { code = drain(*arguments); });
}

}  // namespace planaria
