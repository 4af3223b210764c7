#include <signal.h>

#include <CLI/CLI.hpp>

#include "cli/commands.hpp"
#include "cli/exit_code.hpp"

namespace {

constexpr const char* kFooter =
    "Examples:\n"
    "  planaria run examples/quickstart.toml\n"
    "  planaria run JOB.toml --workers 4 --scenario chaos/scenarios/quickstart.toml\n"
    "  planaria coordinator JOB.toml --listen 127.0.0.1:7070    and, as often as you like,\n"
    "  planaria worker --join 127.0.0.1:7070                    over several machines: docs/OPERATING.md\n\n"
    "Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 data missing or damaged, 4 refused (do not try again),\n"
    "5 unavailable (try again), 6 stopped before the end.";

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
  planaria::add_status(app, code);
  planaria::add_export(app, code);
  planaria::add_generate(app, code);
  planaria::add_tokenize(app, code);
  planaria::add_chaos(app, code);
  planaria::add_simulate(app, code);
  planaria::add_bench(app, code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(planaria::ExitCode::usage);
  }
  return code;
}
