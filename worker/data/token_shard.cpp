#include "worker/data/token_shard.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>
#include <vector>

#include "common/file.hpp"
#include "worker/data/dataset.hpp"
#include "worker/data/mapped_input.hpp"
#include "worker/data/tokenizer.hpp"

namespace planaria {
namespace {

Error write_error(const std::string& path) {
  return file_error(errno, "write", path);
}

class ShardWriter {
 public:
  explicit ShardWriter(const TokenizeOptions& options) : options_(options) {}

  void add(std::span<const TokenId> tokens) {
    for (const TokenId token : tokens) {
      if (!failure_.ok()) return;
      pending_.push_back(static_cast<std::uint16_t>(token));
      if (pending_.size() >= options_.shard_tokens) failure_ = flush();
    }
  }
  [[nodiscard]] const Status& status() const { return failure_; }
  Status finish() {
    PLANARIA_TRY(failure_);
    return pending_.empty() ? ok_status() : flush();
  }
  [[nodiscard]] std::uint64_t tokens() const { return tokens_; }
  [[nodiscard]] std::uint64_t shards() const { return shards_; }

 private:
  Status flush() {
    const std::string path = fmt::format("{}/{}_{:06}.bin", options_.output_directory, options_.prefix, shards_);
    const std::string unfinished = path + ".tmp";
    if (std::filesystem::exists(path)) {
      return Error(ErrorCode::invalid_argument,
                   fmt::format("'{}' is already there: remove it or choose another prefix or directory", path));
    }
    PLANARIA_TRY(write(unfinished));
    if (std::rename(unfinished.c_str(), path.c_str()) != 0) return write_error(path);
    tokens_ += pending_.size();
    ++shards_;
    pending_.clear();
    return ok_status();
  }

  Status write(const std::string& path) const {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "wb"), &std::fclose);
    if (file == nullptr) return write_error(path);
    if (options_.layout == ShardLayout::llm_c) {
      std::array<std::int32_t, 256> header{kShardMagic, kShardVersion, static_cast<std::int32_t>(pending_.size())};
      if (std::fwrite(header.data(), sizeof header, 1, file.get()) != 1) return write_error(path);
    }
    if (std::fwrite(pending_.data(), sizeof(std::uint16_t), pending_.size(), file.get()) != pending_.size() ||
        std::fflush(file.get()) != 0 || ::fsync(::fileno(file.get())) != 0) {
      return write_error(path);
    }
    return ok_status();
  }

  const TokenizeOptions& options_;
  std::vector<std::uint16_t> pending_;
  Status failure_ = ok_status();
  std::uint64_t tokens_ = 0;
  std::uint64_t shards_ = 0;
};

// Shards lie in the output directory and nowhere else, and never among the text: the next run would read them as text.
Status check_places(const TokenizeOptions& options) {
  namespace fs = std::filesystem;
  if (options.prefix.empty() || options.prefix.find('/') != std::string::npos) {
    return Error(ErrorCode::invalid_argument,
                 fmt::format("'{}' is no prefix of file names: it may not be empty or hold a '/'", options.prefix));
  }
  const std::string& endings = options.input.extensions;
  if (!endings.empty() && endings.find("bin") == std::string::npos) return ok_status();  // shards aren't read as text
  std::error_code failed;
  const fs::path input = fs::weakly_canonical(options.input.path, failed);
  if (failed || !fs::is_directory(input, failed)) return ok_status();
  const fs::path output = fs::weakly_canonical(options.output_directory, failed);
  if (failed || std::mismatch(input.begin(), input.end(), output.begin(), output.end()).first != input.end()) {
    return ok_status();
  }
  return Error(ErrorCode::invalid_argument,
               fmt::format("the shards would lie in '{}', among the text that is read: choose an output directory "
                           "outside of '{}'",
                           options.output_directory, options.input.path));
}

}  // namespace

Result<std::span<const std::byte>> shard_tokens(std::span<const std::byte> file, const std::string& path) {
  std::array<std::int32_t, 3> header{};
  if (file.size() >= sizeof header) std::memcpy(header.data(), file.data(), sizeof header);
  if (header[0] == kShardMagic) {
    if (header[1] != kShardVersion) {
      return Error(ErrorCode::unsupported, fmt::format("token shard '{}' has version {}, only {} is supported", path,
                                                       header[1], kShardVersion));
    }
    const auto claimed = static_cast<std::uint64_t>(static_cast<std::uint32_t>(header[2])) * sizeof(std::uint16_t);
    if (file.size() < kShardHeaderBytes || file.size() - kShardHeaderBytes != claimed) {
      return Error(ErrorCode::corrupt,
                   fmt::format("token shard '{}' has {} bytes, but its header tells of {} tokens: it is cut short or "
                               "damaged; copy or tokenize it again",
                               path, file.size(), header[2]));
    }
    return file.subspan(kShardHeaderBytes);
  }
  if (file.size() % sizeof(std::uint16_t) != 0) {
    return Error(ErrorCode::corrupt,
                 fmt::format("'{}' has an odd number of bytes ({}), so it is no uint16 token shard; for text set "
                             "data.format = \"text\"",
                             path, file.size()));
  }
  return file;
}

Result<TokenizeSummary> tokenize_to_shards(const TokenizeOptions& options) {
  if (options.shard_tokens == 0 || options.shard_tokens > INT32_MAX) {
    return Error(ErrorCode::invalid_argument, "a shard holds between 1 and 2147483647 tokens");
  }
  PLANARIA_TRY(check_places(options));
  PLANARIA_ASSIGN(const auto tokenizer, open_tokenizer(options.input));
  if (tokenizer->vocabulary() > 65536) {
    return Error(ErrorCode::unsupported,
                 fmt::format("the tokenizer has {} tokens; uint16 shards hold at most 65536", tokenizer->vocabulary()));
  }
  PLANARIA_ASSIGN(const std::vector<std::string> files, list_data_files(options.input));
  PLANARIA_TRY(posix_file_system().make_directories(options.output_directory));
  TokenizeSummary summary;
  summary.vocabulary = tokenizer->vocabulary();
  ShardWriter writer(options);
  for (const std::string& path : files) {
    if (summary.files > 0) {
      if (const auto separator = tokenizer->end_of_text()) writer.add(std::span(&*separator, 1));
    }
    PLANARIA_ASSIGN(const MappedInput file, MappedInput::open(path));
    const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
    tokenizer->encode(text, [&](std::span<const TokenId> tokens) { writer.add(tokens); });
    PLANARIA_TRY(writer.status());
    ++summary.files;
    summary.bytes += text.size();
  }
  PLANARIA_TRY(writer.finish());
  summary.tokens = writer.tokens();
  summary.shards = writer.shards();
  return summary;
}

}  // namespace planaria
