// The tokens of a job: opened once, hashed, split in a training and a validation part, read by windows.
//
// Text (one file, or a directory's files in the byte order of their relative paths, empty ones left out) is joined in
// that order; with bytes as tokens nothing stands between two files, with BPE the end-of-text token does when the
// tokenizer has one. BPE text is tokenized into memory when opened; `planaria tokenize` writes shards instead, for
// texts that are opened often. Token shards (uint16) are llm.c's layout when they carry its magic, else nanoGPT's raw
// one, and stay memory-mapped.
//
// The stream's last validation_fraction is the validation part. Each part is cut in disjoint windows of T tokens; a
// window is read with the token that follows it, so that it has T inputs and T next-token targets. What is left over
// at a part's end (less than T + 1 tokens) is not used.
//
// The content hash is XXH3-128 over, for each file in order, its length (u64) and bytes; with BPE the tokenizer file
// comes first.
//
// Thread contract: immutable after open; read from any thread. The files must not change while it lives.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/hash.hpp"
#include "common/result.hpp"
#include "proto/job_spec.hpp"

namespace planaria {

enum class Split : std::uint8_t { train, validation };

class Dataset {
 public:
  // `vocab` bounds the tokens; `context` is T. Errors name the path and say what to change.
  [[nodiscard]] static Result<Dataset> open(const DataSpec& data, std::uint32_t context, std::uint32_t vocab);
  ~Dataset();
  Dataset(Dataset&&) noexcept;
  Dataset& operator=(Dataset&&) noexcept;

  [[nodiscard]] const Hash128& content_hash() const { return content_hash_; }
  [[nodiscard]] std::uint32_t context() const { return context_; }
  [[nodiscard]] std::uint64_t tokens() const { return tokens_; }
  [[nodiscard]] std::uint64_t tokens(Split split) const {
    return split == Split::train ? train_tokens_ : tokens_ - train_tokens_;
  }
  // W of a part: the training part always has at least one; the validation part may have none when
  // validation_fraction is 0.
  [[nodiscard]] std::uint64_t windows(Split split) const;

  // Writes the T inputs of a window and the T tokens that follow each of them.
  // Preconditions: window < windows(split); both spans hold T elements.
  void read(Split split, std::uint64_t window, std::span<std::int32_t> inputs, std::span<std::int32_t> targets) const;

 private:
  struct Source;
  Dataset();
  void copy_tokens(std::uint64_t from, std::span<std::int32_t> out) const;

  std::unique_ptr<Source> source_;
  Hash128 content_hash_;
  std::uint32_t context_ = 0;
  std::uint64_t tokens_ = 0;
  std::uint64_t train_tokens_ = 0;
};

// The files a data section names, in the order in which they are joined. At least one, none of them empty.
// For a directory of token shards without `extensions`, the files ending in ".bin".
[[nodiscard]] Result<std::vector<std::string>> list_data_files(const DataSpec& data);

}  // namespace planaria
