#include "worker/data/tokenizer.hpp"

#include <array>
#include <span>

#include "worker/data/mapped_input.hpp"

namespace planaria {
namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  using Tokenizer::encode;

  void encode(std::string_view text, const Sink& sink) const override {
    std::array<TokenId, 4096> block{};
    while (!text.empty()) {
      const std::size_t count = std::min(text.size(), block.size());
      for (std::size_t i = 0; i < count; ++i) block[i] = static_cast<std::uint8_t>(text[i]);
      sink(std::span(block).first(count));
      text.remove_prefix(count);
    }
  }
  Result<std::string> decode(std::span<const TokenId> tokens) const override {
    std::string text;
    text.reserve(tokens.size());
    for (const TokenId token : tokens) {
      if (token > 255) return Error(ErrorCode::invalid_argument, "token " + std::to_string(token) + " is not a byte");
      text.push_back(static_cast<char>(token));
    }
    return text;
  }
  std::uint32_t vocabulary() const override { return 256; }
  std::optional<TokenId> end_of_text() const override { return std::nullopt; }
};

}  // namespace

std::vector<TokenId> Tokenizer::encode(std::string_view text) const {
  std::vector<TokenId> tokens;
  encode(text, [&](std::span<const TokenId> run) { tokens.insert(tokens.end(), run.begin(), run.end()); });
  return tokens;
}

std::unique_ptr<Tokenizer> byte_tokenizer() {
  return std::make_unique<ByteTokenizer>();
}

Result<std::unique_ptr<Tokenizer>> open_tokenizer(const DataSpec& data) {
  if (data.tokenizer == TokenizerKind::bytes) return byte_tokenizer();
  if (data.tokenizer_file.empty()) {
    return Error(ErrorCode::invalid_argument,
                 "data.tokenizer = \"bpe\" needs data.tokenizer_file, the path of a tokenizer.json");
  }
  PLANARIA_ASSIGN(const MappedInput file, MappedInput::open(data.tokenizer_file));
  const std::span<const std::byte> bytes = file.bytes();
  return parse_bpe_tokenizer({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, data.tokenizer_file);
}

}  // namespace planaria
