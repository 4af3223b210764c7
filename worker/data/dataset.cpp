#include "worker/data/dataset.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <deque>
#include <filesystem>
#include <system_error>
#include <utility>

#include "worker/data/mapped_input.hpp"
#include "worker/data/token_shard.hpp"
#include "worker/data/tokenizer.hpp"

namespace planaria {
namespace fs = std::filesystem;

// Runs of tokens laid one after another; each points into a file or into the tokenized text.
struct Dataset::Source {
  struct Run {
    std::uint64_t first = 0;  // position of its first token in the whole stream
    std::uint64_t count = 0;
    const std::byte* data = nullptr;
  };

  void append(std::span<const std::byte> data) {
    const std::uint64_t count = data.size() / token_bytes;
    if (count == 0) return;
    const std::uint64_t first = runs.empty() ? 0 : runs.back().first + runs.back().count;
    runs.push_back({first, count, data.data()});
  }
  [[nodiscard]] std::uint64_t size() const { return runs.empty() ? 0 : runs.back().first + runs.back().count; }

  [[nodiscard]] std::uint32_t token_of(const std::byte* data, std::uint64_t index) const {
    if (token_bytes == 1) return static_cast<std::uint8_t>(data[index]);
    std::uint16_t token = 0;
    std::memcpy(&token, data + index * 2, sizeof token);
    return token;
  }
  [[nodiscard]] std::uint32_t largest_token() const {
    std::uint32_t largest = 0;
    for (const Run& run : runs) {
      for (std::uint64_t i = 0; i < run.count; ++i) largest = std::max(largest, token_of(run.data, i));
    }
    return largest;
  }

  std::uint32_t token_bytes = 1;
  std::deque<MappedInput> files;
  std::vector<std::uint16_t> tokenized;
  std::vector<Run> runs;
};

namespace {

std::vector<std::string> split_list(const std::string& list) {
  std::vector<std::string> parts;
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t comma = std::min(list.find(',', at), list.size());
    std::string part = list.substr(at, comma - at);
    std::erase(part, ' ');
    if (!part.empty()) parts.push_back(std::move(part));
    at = comma + 1;
  }
  return parts;
}

std::string_view text_of(const MappedInput& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// Adds a file to the content hash.
void add_to_hash(Hasher& hasher, std::span<const std::byte> bytes) {
  hasher.update(static_cast<std::uint64_t>(bytes.size()));
  hasher.update(bytes);
}

Status tokenize_files(const std::deque<MappedInput>& files, const Tokenizer& tokenizer,
                      std::vector<std::uint16_t>& tokens) {
  if (tokenizer.vocabulary() > 65536) {
    return Error(ErrorCode::unsupported,
                 fmt::format("the tokenizer has {} tokens; at most 65536 are supported", tokenizer.vocabulary()));
  }
  const auto sink = [&](std::span<const TokenId> run) {
    for (const TokenId token : run) tokens.push_back(static_cast<std::uint16_t>(token));
  };
  for (const MappedInput& file : files) {
    if (!tokens.empty()) {
      if (const auto separator = tokenizer.end_of_text()) sink(std::span(&*separator, 1));
    }
    tokenizer.encode(text_of(file), sink);
  }
  return ok_status();
}

Error too_little(const DataSpec& data, const char* part, std::uint64_t have, std::uint32_t context) {
  return {
      ErrorCode::invalid_argument,
      fmt::format("the {} part of '{}' has {} tokens, but one sequence needs {} (model.context + 1): use more text, "
                  "a smaller model.context or another data.validation_fraction",
                  part, data.path, have, std::uint64_t{context} + 1)};
}

}  // namespace

Result<std::vector<std::string>> list_data_files(const DataSpec& data) {
  if (data.path.empty()) {
    return Error(ErrorCode::invalid_argument, "data.path is not set: give a text file or a directory");
  }
  std::error_code failed;
  const fs::file_status kind = fs::status(data.path, failed);
  if (!fs::exists(kind)) {
    return Error(ErrorCode::not_found, fmt::format("data.path '{}' does not exist", data.path));
  }
  if (!fs::is_directory(kind)) {
    const std::uintmax_t size = fs::file_size(data.path, failed);
    if (!failed && size == 0) {
      return Error(ErrorCode::invalid_argument, fmt::format("data.path '{}' is an empty file", data.path));
    }
    return std::vector<std::string>{data.path};
  }
  std::vector<std::string> endings = split_list(data.extensions);
  if (endings.empty() && data.format == DataFormat::tokens_u16) endings.emplace_back(".bin");
  std::vector<std::string> found;
  fs::recursive_directory_iterator entry(data.path, failed);
  for (; !failed && entry != fs::recursive_directory_iterator(); entry.increment(failed)) {
    std::error_code unreadable;
    if (!entry->is_regular_file(unreadable) || entry->file_size(unreadable) == 0) continue;
    const std::string name = entry->path().filename().string();
    const auto matches = [&](const std::string& ending) { return name.ends_with(ending); };
    if (endings.empty() || std::ranges::any_of(endings, matches)) found.push_back(entry->path().generic_string());
  }
  if (failed) {
    return Error(ErrorCode::io, fmt::format("can't read directory '{}': {}", data.path, failed.message()));
  }
  if (found.empty()) {
    return Error(ErrorCode::not_found, fmt::format("directory '{}' has no file that is not empty{}", data.path,
                                                   endings.empty() ? std::string()
                                                                   : fmt::format(" and ends in {}; see data.extensions",
                                                                                 fmt::join(endings, " or "))));
  }
  std::ranges::sort(found);
  return found;
}

Dataset::Dataset() : source_(std::make_unique<Source>()) {}
Dataset::~Dataset() = default;
Dataset::Dataset(Dataset&&) noexcept = default;
Dataset& Dataset::operator=(Dataset&&) noexcept = default;

Result<Dataset> Dataset::open(const DataSpec& data, std::uint32_t context, std::uint32_t vocab) {
  if (!(data.validation_fraction >= 0.0 && data.validation_fraction < 1.0)) {
    return Error(ErrorCode::invalid_argument, "data.validation_fraction lies in [0, 1)");
  }
  Dataset set;
  set.context_ = context;
  Source& source = *set.source_;
  const bool shards = data.format == DataFormat::tokens_u16;
  const bool bpe = !shards && data.tokenizer == TokenizerKind::bpe;
  source.token_bytes = shards || bpe ? 2 : 1;

  Hasher hasher;
  PLANARIA_ASSIGN(const std::vector<std::string> paths, list_data_files(data));
  if (bpe) {
    if (!data.tokenizer_file.empty()) {
      PLANARIA_ASSIGN(const MappedInput file, MappedInput::open(data.tokenizer_file));
      add_to_hash(hasher, file.bytes());
    }
  }
  for (const std::string& path : paths) {
    PLANARIA_ASSIGN(MappedInput file, MappedInput::open(path));
    const MappedInput& kept = source.files.emplace_back(std::move(file));
    add_to_hash(hasher, kept.bytes());
    if (shards) {
      PLANARIA_ASSIGN(const std::span<const std::byte> tokens, shard_tokens(kept.bytes(), path));
      source.append(tokens);
    } else if (!bpe) {
      source.append(kept.bytes());
    }
  }
  set.content_hash_ = hasher.digest();
  if (bpe) {
    PLANARIA_ASSIGN(const auto tokenizer, open_tokenizer(data));
    PLANARIA_TRY(tokenize_files(source.files, *tokenizer, source.tokenized));
    source.files.clear();
    source.append(std::as_bytes(std::span(source.tokenized)));
  }

  set.tokens_ = source.size();
  const auto tail = static_cast<std::uint64_t>(static_cast<double>(set.tokens_) * data.validation_fraction);
  set.train_tokens_ = set.tokens_ - tail;
  if (set.windows(Split::train) == 0) return too_little(data, "training", set.train_tokens_, context);
  if (data.validation_fraction > 0.0 && set.windows(Split::validation) == 0) {
    return too_little(data, "validation", tail, context);
  }
  if (const std::uint32_t largest = source.largest_token(); largest >= vocab) {
    return Error(ErrorCode::invalid_argument, fmt::format("'{}' holds token {}, but model.vocab is {}: set it to at "
                                                          "least {}",
                                                          data.path, largest, vocab, largest + 1));
  }
  return set;
}

std::uint64_t Dataset::windows(Split split) const {
  const std::uint64_t count = tokens(split);
  return count == 0 ? 0 : (count - 1) / context_;
}

void Dataset::read(Split split, std::uint64_t window, std::span<std::int32_t> inputs,
                   std::span<std::int32_t> targets) const {
  assert(window < windows(split) && inputs.size() == context_ && targets.size() == context_);
  const std::uint64_t from = (split == Split::train ? 0 : train_tokens_) + window * context_;
  copy_tokens(from, inputs);
  copy_tokens(from + 1, targets);
}

void Dataset::copy_tokens(std::uint64_t from, std::span<std::int32_t> out) const {
  const auto& runs = source_->runs;
  auto run = std::prev(std::ranges::upper_bound(runs, from, {}, &Source::Run::first));
  std::uint64_t at = from - run->first;
  for (std::int32_t& token : out) {
    if (at == run->count) {
      ++run;
      at = 0;
    }
    token = static_cast<std::int32_t>(source_->token_of(run->data, at++));
  }
}

}  // namespace planaria
