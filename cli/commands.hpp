// The subcommands of `planaria`. Each adds itself, with its options and examples, to the application; its callback
// leaves the exit code (common/exit_code.hpp) in `code`.
//
// Thread contract: use from the main thread.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace planaria {

// What every command that reads a job file takes.
struct JobArguments {
  std::string file;
  std::vector<std::string> assignments;  // --set section.key=value
};

void add_job_arguments(CLI::App& command, JobArguments& arguments);

void add_run(CLI::App& app, int& code);
void add_coordinator(CLI::App& app, int& code);
void add_worker(CLI::App& app, int& code);
void add_keeper(CLI::App& app, int& code);
void add_status(CLI::App& app, int& code);  // status, watch, drain
void add_export(CLI::App& app, int& code);
void add_snapshot(CLI::App& app, int& code);
void add_import(CLI::App& app, int& code);
void add_evaluate(CLI::App& app, int& code);
void add_generate(CLI::App& app, int& code);
void add_tokenize(CLI::App& app, int& code);
void add_chaos(CLI::App& app, int& code);
void add_simulate(CLI::App& app, int& code);
void add_bench(CLI::App& app, int& code);
void add_plan(CLI::App& app, int& code);

}  // namespace planaria
