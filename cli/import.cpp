#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "proto/job_config.hpp"
#include "storage/pretrained.hpp"

namespace planaria {
namespace {

struct ImportArguments {
  std::string directory;
  bool as_json = false;
};

Status print_table(const ImportArguments& arguments) {
  JobSpec job;
  PLANARIA_ASSIGN(const PretrainedModel opened,
                  PretrainedModel::open(posix_file_system(), arguments.directory, job.train.tile_elements));
  std::error_code unknown;
  const auto absolute = std::filesystem::absolute(arguments.directory, unknown).lexically_normal();
  job.model = opened.model();
  job.pretrained = {unknown ? arguments.directory : absolute.string(), opened.weights_hash()};
  std::vector<std::string_view> types;
  for (const TensorType type : opened.types()) types.push_back(to_string(type));
  const std::string table = model_to_toml(job);
  if (arguments.as_json) {
    const nlohmann::json report = {{"parameters", opened.map().parameter_count()},
                                   {"tensors", opened.tensors()},
                                   {"files", opened.files()},
                                   {"dtypes", types},
                                   {"weights_hash", job.pretrained.weights_hash.hex()},
                                   {"toml", table}};
    fmt::print("{}\n", report.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else {
    fmt::print("# {} parameters in {} tensors of {}, {} file{}\n{}", opened.map().parameter_count(), opened.tensors(),
               fmt::join(types, ", "), opened.files(), opened.files() == 1 ? "" : "s", table);
  }
  return ok_status();
}

}  // namespace

void add_import(CLI::App& app, int& code) {
  auto* command =
      app.add_subcommand("import", "Print the [model] table of a job that starts from a Hugging Face model");
  command->footer(
      "Examples:\n  planaria import models/gpt2 >> JOB.toml\n  planaria import models/llama --json\n\n"
      "The directory holds config.json and model.safetensors, or model.safetensors.index.json and its files. Nothing\n"
      "is copied: the job reads them from there. Its batch, data and the rest are yours to add (docs/JOB.md).");
  auto arguments = std::make_shared<ImportArguments>();
  command->add_option("DIR", arguments->directory, "directory of the model")->required();
  command->add_flag("--json", arguments->as_json, "one JSON object, with the table as its `toml`");
  command->callback([arguments, &code] {
    const Status done = print_table(*arguments);
    code = done ? 0 : fail(done.error());
  });
}

}  // namespace planaria
