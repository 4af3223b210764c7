#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "worker/data/token_shard.hpp"

namespace planaria {

void add_tokenize(CLI::App& app, int& code) {
  auto* command = app.add_subcommand("tokenize", "Turn text into token shards (uint16, llm.c or nanoGPT layout)");
  command->footer(
      "Examples:\n  planaria tokenize corpus/ --out shards/ --tokenizer tokenizer.json\n"
      "  planaria tokenize book.txt --out shards/ --raw");
  struct Arguments {
    TokenizeOptions options;
    bool raw = false;
  };
  auto arguments = std::make_shared<Arguments>();
  TokenizeOptions& options = arguments->options;
  command->add_option("TEXT", options.input.path, "file or directory")->required();
  command->add_option("--out", options.output_directory, "directory of the shards")->required();
  command->add_option("--tokenizer", options.input.tokenizer_file, "tokenizer.json of a byte-level BPE; default bytes");
  command->add_option("--extensions", options.input.extensions, "of a directory's files: .txt,.md; default all");
  command->add_option("--prefix", options.prefix, "of the shards' names")->capture_default_str();
  command->add_option("--shard-tokens", options.shard_tokens, "tokens a shard holds at most")
      ->capture_default_str()
      ->transform(whole_number(1, INT32_MAX));
  command->add_flag("--raw", arguments->raw, "nanoGPT layout: tokens only, no header");
  command->callback([arguments, &code] {
    TokenizeOptions& chosen = arguments->options;
    if (!chosen.input.tokenizer_file.empty()) chosen.input.tokenizer = TokenizerKind::bpe;
    if (arguments->raw) chosen.layout = ShardLayout::raw;
    const auto summary = tokenize_to_shards(chosen);
    if (!summary) {
      code = fail(summary.error());
      return;
    }
    fmt::print("{} tokens of {} bytes in {} files, {} shards in {}\n", summary->tokens, summary->bytes, summary->files,
               summary->shards, chosen.output_directory);
    fmt::print("In the job: data.path = \"{}\", data.format = \"tokens_u16\", model.vocab = {}\n",
               chosen.output_directory, summary->vocabulary);
  });
}

}  // namespace planaria
