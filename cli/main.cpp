#include <signal.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <string>
#include <vector>

#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "common/config.hpp"

namespace {

constexpr const char* kFooter =
    "Examples:\n"
    "  planaria run examples/quickstart.toml\n"
    "  planaria run JOB.toml --workers 4 --scenario chaos/scenarios/quickstart.toml\n"
    "  planaria coordinator JOB.toml --listen 127.0.0.1:7070    and, as often as you like,\n"
    "  planaria worker --join 127.0.0.1:7070                    over several machines: docs/OPERATING.md\n\n"
    "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 data missing or damaged, 4 refused (do not try again),\n"
    "5 unavailable (try again), 6 stopped before the end.";

// What to say of a first word that names no subcommand, or nothing.
std::string unknown_subcommand(const CLI::App& app, int argc, char** argv) {
  const std::string word = argc > 1 ? argv[1] : "";
  if (word.empty() || word.front() == '-') return "";
  std::vector<std::string> names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (command->get_name() == word) return "";
    names.push_back(command->get_name());
  }
  const std::string meant = planaria::nearest(word, names);
  return "there is no subcommand '" + word + "'; " + (meant.empty() ? "" : "did you mean '" + meant + "'? ") +
         "`planaria --help` lists them";
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  CLI::App app("Planaria trains transformer language models on machines that come and go, to the same bits.",
               "planaria");
  app.footer(kFooter);
  app.require_subcommand(1);
  app.set_version_flag("--version", PLANARIA_VERSION);
  int code = 0;
  planaria::add_run(app, code);
  planaria::add_coordinator(app, code);
  planaria::add_worker(app, code);
  planaria::add_keeper(app, code);
  planaria::add_status(app, code);
  planaria::add_export(app, code);
  planaria::add_snapshot(app, code);
  planaria::add_import(app, code);
  planaria::add_evaluate(app, code);
  planaria::add_generate(app, code);
  planaria::add_tokenize(app, code);
  planaria::add_chaos(app, code);
  planaria::add_simulate(app, code);
  planaria::add_bench(app, code);
  planaria::add_plan(app, code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::RequiredError& error) {
    if (const std::string unknown = unknown_subcommand(app, argc, argv); !unknown.empty()) {
      return planaria::fail({planaria::ErrorCode::invalid_argument, unknown});
    }
    app.exit(error);
    return static_cast<int>(planaria::ExitCode::usage);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(planaria::ExitCode::usage);
  } catch (const std::exception& failure) {
    return planaria::fail({planaria::ErrorCode::internal, std::string("a bug, please report it: ") + failure.what()});
  }
  return code;
}
