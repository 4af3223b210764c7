// uint16 token shards in the two layouts that other programs write, and the writer behind `planaria tokenize`.
//
//   nanoGPT:  little-endian uint16 tokens, nothing else
//   llm.c:    256 little-endian int32 (20240520, version 1, number of tokens, zeros), then the uint16 tokens
//
// Thread contract: pure functions; a writer belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "common/result.hpp"
#include "proto/job_spec.hpp"

namespace planaria {

inline constexpr std::int32_t kShardMagic = 20240520;
inline constexpr std::int32_t kShardVersion = 1;
inline constexpr std::size_t kShardHeaderBytes = 256 * sizeof(std::int32_t);

enum class ShardLayout : std::uint8_t { llm_c, raw };

// Where the tokens lie in a shard's bytes: after the header when there is one. A header whose version or count doesn't
// fit the file, and an odd number of bytes, are errors. `path` is used in messages.
[[nodiscard]] Result<std::span<const std::byte>> shard_tokens(std::span<const std::byte> file, const std::string& path);

struct TokenizeOptions {
  DataSpec input;                        // path, extensions, tokenizer and tokenizer_file are used
  std::string output_directory;          // made when missing
  std::string prefix = "tokens";         // files are PREFIX_000000.bin, PREFIX_000001.bin, ...
  std::uint64_t shard_tokens = 1 << 27;  // tokens a shard holds at most
  ShardLayout layout = ShardLayout::llm_c;
};

struct TokenizeSummary {
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;
  std::uint64_t tokens = 0;
  std::uint64_t shards = 0;
  std::uint32_t vocabulary = 0;
};

// Tokenizes text to shards, one input file at a time, so that memory holds one shard whatever the size of the text.
// Each shard is written beside its name and renamed when whole; shards of the same prefix that are already there are
// an error.
[[nodiscard]] Result<TokenizeSummary> tokenize_to_shards(const TokenizeOptions& options);

}  // namespace planaria
