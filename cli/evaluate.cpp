#include "worker/model/evaluate.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "cli/model_device.hpp"
#include "storage/pretrained.hpp"
#include "storage/safetensors.hpp"

namespace planaria {
namespace {

struct EvaluateArguments {
  std::string directory, tokens, logits;
  std::uint32_t context = 0;
  std::uint32_t threads = 1;
  std::string device = "cpu";
  bool as_json = false;
};

// Any: nothing is shared out here.
constexpr std::uint32_t kTileElements = 65536;

Result<Dataset> open_tokens(const EvaluateArguments& arguments, const ModelSpec& model) {
  const std::uint32_t context = arguments.context == 0 ? model.context : arguments.context;
  if (context > model.context) {
    return Error(ErrorCode::invalid_argument,
                 fmt::format("--context {} is longer than the model's {}", context, model.context));
  }
  DataSpec data;
  data.path = arguments.tokens;
  data.format = DataFormat::tokens_u16;
  data.validation_fraction = 0;
  return Dataset::open(data, context, model.vocab);
}

// Evaluates, and writes the logits of all windows as one tensor.
Result<Evaluation> evaluate_to_file(const std::string& path, const ModelSpec& model, const Dataset& dataset,
                                    const std::function<Result<Evaluation>(const LogitsSink&)>& run) {
  PLANARIA_ASSIGN(const auto file, posix_file_system().create(path));
  const TensorSpec tensor{
      "logits", TensorType::f32, {dataset.windows(Split::train), dataset.context(), std::uint64_t{model.vocab}}};
  PLANARIA_ASSIGN(SafetensorsWriter writer, SafetensorsWriter::begin(*file, {tensor}, {}));
  PLANARIA_ASSIGN(const Evaluation done, run([&](std::span<const float> logits) { return writer.append(logits); }));
  PLANARIA_TRY(writer.finish());
  PLANARIA_TRY(file->close());
  return done;
}

Status evaluate_model(const EvaluateArguments& arguments) {
  PLANARIA_ASSIGN(const ImportedModel imported, import_model(posix_file_system(), arguments.directory, kTileElements));
  const StateMap map(imported.model, kTileElements);
  PLANARIA_ASSIGN(const Dataset dataset, open_tokens(arguments, imported.model));
  PLANARIA_ASSIGN(const ModelDevice device,
                  ModelDevice::create(arguments.device, arguments.threads, imported.parameters));
  const auto run = [&](const LogitsSink& logits) {
    return evaluate(device.ops(), imported.model, map, device.parameters(), dataset, logits);
  };
  PLANARIA_ASSIGN(const Evaluation done, arguments.logits.empty()
                                             ? run({})
                                             : evaluate_to_file(arguments.logits, imported.model, dataset, run));
  if (arguments.as_json) {
    const nlohmann::json report = {
        {"loss", done.loss}, {"tokens", done.tokens}, {"windows", done.windows}, {"context", dataset.context()}};
    fmt::print("{}\n", report.dump());
  } else {
    fmt::print("loss {:.6f} nats a token, over {} tokens in {} windows of {}\n", done.loss, done.tokens, done.windows,
               dataset.context());
  }
  return ok_status();
}

}  // namespace

void add_evaluate(CLI::App& app, int& code) {
  auto* command = app.add_subcommand("evaluate", "Tell the loss of an exported or published model on tokens");
  command->footer(
      "Examples:\n  planaria evaluate runs/quickstart-hf --tokens shards/\n"
      "  planaria evaluate models/gpt2 --tokens text.bin --context 128 --logits logits.safetensors --json\n\n"
      "Tokens are uint16 shards, as `planaria tokenize` writes them. They are cut in windows of the context, each\n"
      "predicted for itself; what is left over at the end isn't used.");
  auto arguments = std::make_shared<EvaluateArguments>();
  command->add_option("DIR", arguments->directory, "directory of the model: config.json and safetensors")->required();
  command->add_option("--tokens", arguments->tokens, "file or directory of token shards")->required();
  command->add_option("--context", arguments->context, "tokens of a window; default the model's")
      ->transform(whole_number(2, 1 << 20));
  command->add_option("--logits", arguments->logits,
                      "safetensors file to write the logits to: F32 [windows, context, vocab]");
  command->add_option("--threads", arguments->threads, "compute threads")
      ->capture_default_str()
      ->transform(whole_number(1, 1024));
  command->add_option("--device", arguments->device, kModelDeviceHelp)->capture_default_str();
  command->add_flag("--json", arguments->as_json, "one JSON object");
  command->callback([arguments, &code] {
    const Status done = evaluate_model(*arguments);
    code = done ? 0 : fail(done.error());
  });
}

}  // namespace planaria
