// Tokenizers: bytes as tokens, and byte-level BPE read from a Hugging Face tokenizer.json.
//
// BPE is the GPT-2 kind: the text is cut into words by the rules of word_split.hpp, a word's bytes are the first
// symbols, and the pair of lowest merge rank (the leftmost of equals) is joined until no pair has a rank. Added tokens
// are found first, longest match at each position. Files that ask for anything else (other models, normalizers,
// pre-tokenizers or regular expressions) are refused: silently different tokens would be worse.
//
// Any bytes can be encoded, valid UTF-8 or not, and decode(encode(x)) == x unless add_prefix_space put a space in
// front.
//
// Thread contract: immutable after construction; encode and decode may be called from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/result.hpp"
#include "proto/job_spec.hpp"

namespace planaria {

using TokenId = std::uint32_t;

class Tokenizer {
 public:
  // Takes a run of tokens; called many times a text, so that no whole text need be held twice.
  using Sink = std::function<void(std::span<const TokenId>)>;

  virtual ~Tokenizer() = default;

  virtual void encode(std::string_view text, const Sink& sink) const = 0;
  // Unknown ids are an error.
  [[nodiscard]] virtual Result<std::string> decode(std::span<const TokenId> tokens) const = 0;
  // One more than the largest id.
  [[nodiscard]] virtual std::uint32_t vocabulary() const = 0;
  // The token that separates documents, when there is one.
  [[nodiscard]] virtual std::optional<TokenId> end_of_text() const = 0;

  [[nodiscard]] std::vector<TokenId> encode(std::string_view text) const;
};

// Token = byte, 256 of them.
[[nodiscard]] std::unique_ptr<Tokenizer> byte_tokenizer();

// `json` is the text of a tokenizer.json; `name` is used in messages.
[[nodiscard]] Result<std::unique_ptr<Tokenizer>> parse_bpe_tokenizer(std::string_view json, const std::string& name);

// What the data section asks for.
[[nodiscard]] Result<std::unique_ptr<Tokenizer>> open_tokenizer(const DataSpec& data);

}  // namespace planaria
