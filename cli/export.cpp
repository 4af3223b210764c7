#include "storage/export.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "cli/run_directory.hpp"

namespace planaria {
namespace {

struct ExportArguments {
  std::string from, to;
  std::optional<std::uint64_t> step;
};

int export_run(const ExportArguments& arguments) {
  const auto run = open_run(arguments.from, arguments.step ? std::optional(Step(*arguments.step)) : std::nullopt);
  if (!run) return fail(run.error());
  tell_refused(run->refused);
  FileSystem& files = posix_file_system();
  const auto hash = export_model(files, arguments.to, run->job.model, run->map, run->state.master);
  if (!hash) return fail(hash.error());
  fmt::print("step {}: {} parameters in {}\nweights {}\n", run->state.step.value(), run->map.parameter_count(),
             arguments.to, hash->hex());
  return 0;
}

}  // namespace

void add_export(CLI::App& app, int& code) {
  auto* command = app.add_subcommand("export", "Write a run's weights as Hugging Face safetensors");
  command->footer("Example:\n  planaria export --from runs/quickstart --to runs/quickstart-hf");
  auto arguments = std::make_shared<ExportArguments>();
  command->add_option("--from", arguments->from, "a run's directory")->required();
  command->add_option("--to", arguments->to, "directory to write")->required();
  command->add_option("--step", arguments->step, "of this checkpoint; default the newest sound one")
      ->transform(whole_number());
  command->callback([arguments, &code] { code = export_run(*arguments); });
}

}  // namespace planaria
