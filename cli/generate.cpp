#include "worker/model/generate.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "cli/model_device.hpp"
#include "cli/run_directory.hpp"
#include "worker/data/tokenizer.hpp"

namespace planaria {
namespace {

struct GenerateArguments {
  std::string from;
  std::string prompt = "The ";
  std::uint32_t threads = 1;
  std::string device = "cpu";
  GenerateOptions options;
};

Status generate_from(const GenerateArguments& arguments) {
  PLANARIA_ASSIGN(const RunModel run, open_run(arguments.from));
  tell_refused(run.refused);
  PLANARIA_ASSIGN(const auto tokenizer, open_tokenizer(run.job.data));
  PLANARIA_ASSIGN(const ModelDevice device, ModelDevice::create(arguments.device, arguments.threads, run.state.master));
  const std::vector<TokenId> encoded = tokenizer->encode(arguments.prompt);
  const std::vector<std::int32_t> prompt(encoded.begin(), encoded.end());
  PLANARIA_ASSIGN(const auto tokens,
                  generate(device.ops(), run.job.model, run.map, device.parameters(), prompt, arguments.options));
  const std::vector<TokenId> ids(tokens.begin(), tokens.end());
  PLANARIA_ASSIGN(const std::string text, tokenizer->decode(ids));
  fmt::print("{}{}\n", arguments.prompt, text);
  return ok_status();
}

}  // namespace

void add_generate(CLI::App& app, int& code) {
  auto* command = app.add_subcommand("generate", "Let a run's model write");
  command->footer("Example:\n  planaria generate --from runs/quickstart --prompt \"The \" --tokens 400");
  auto arguments = std::make_shared<GenerateArguments>();
  command->add_option("--from", arguments->from, "a run's directory")->required();
  command->add_option("--prompt", arguments->prompt, "text to go on from")->capture_default_str();
  command->add_option("--tokens", arguments->options.tokens, "how many")
      ->capture_default_str()
      ->transform(whole_number(0, 1'000'000));
  command->add_option("--temperature", arguments->options.temperature, "0 = always the likeliest")
      ->capture_default_str()
      ->transform(number_between(0, 1000));
  command->add_option("--top-k", arguments->options.top_k, "choose among so many; 0 = all")
      ->capture_default_str()
      ->transform(whole_number(0, UINT32_MAX));
  command->add_option("--seed", arguments->options.seed, "of the choices")
      ->capture_default_str()
      ->transform(whole_number());
  command->add_option("--threads", arguments->threads, "compute threads")
      ->capture_default_str()
      ->transform(whole_number(1, 1024));
  command->add_option("--device", arguments->device, kModelDeviceHelp)->capture_default_str();
  command->callback([arguments, &code] {
    const Status done = generate_from(*arguments);
    code = done ? 0 : fail(done.error());
  });
}

}  // namespace planaria
