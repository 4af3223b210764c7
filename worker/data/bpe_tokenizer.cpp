#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <queue>
#include <unordered_map>
#include <utility>

#include "worker/data/tokenizer.hpp"
#include "worker/data/word_split.hpp"

namespace planaria {
namespace {

using Json = nlohmann::json;

constexpr std::uint32_t kNoToken = UINT32_MAX;
constexpr std::uint32_t kMaxVocabulary = 1U << 20;

// The byte-level alphabet: printable Latin-1 bytes stand for themselves, the others for U+0100, U+0101, ... in order.
std::array<std::uint32_t, 256> byte_alphabet() {
  std::array<std::uint32_t, 256> letters{};
  std::uint32_t next = 0x100;
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    letters[byte] = printable ? byte : next++;
  }
  return letters;
}

// The UTF-8 form of a letter of the byte alphabet; all are below U+0800.
std::string utf8(std::uint32_t code_point) {
  if (code_point < 0x80) return {static_cast<char>(code_point)};
  return {static_cast<char>(0xC0U | (code_point >> 6)), static_cast<char>(0x80U | (code_point & 0x3FU))};
}

struct Merge {
  std::uint32_t rank = 0;
  TokenId joined = 0;
};

struct Tables {
  std::vector<std::optional<std::string>> bytes_of;  // by id: the bytes a token stands for
  std::array<TokenId, 256> byte_token{};
  std::unordered_map<std::uint64_t, Merge> merges;     // by (left << 32 | right)
  std::vector<std::pair<std::string, TokenId>> added;  // longest first
  std::array<bool, 256> starts_added{};
  std::optional<TokenId> end_of_text;
  bool add_prefix_space = false;
};

class BpeTokenizer final : public Tokenizer {
 public:
  using Tokenizer::encode;

  explicit BpeTokenizer(Tables tables) : tables_(std::move(tables)) {}

  void encode(std::string_view text, const Sink& sink) const override {
    WordCache cache;
    while (!text.empty()) {
      std::size_t at = 0;
      const std::pair<std::string, TokenId>* special = nullptr;
      while (at < text.size() && (special = added_at(text.substr(at))) == nullptr) ++at;
      if (at > 0) encode_plain(text.substr(0, at), cache, sink);
      text.remove_prefix(at);
      if (special != nullptr) {
        sink(std::span(&special->second, 1));
        text.remove_prefix(special->first.size());
      }
    }
  }

  Result<std::string> decode(std::span<const TokenId> tokens) const override {
    std::string text;
    for (const TokenId token : tokens) {
      if (token >= tables_.bytes_of.size() || !tables_.bytes_of[token]) {
        return Error(ErrorCode::invalid_argument, "the tokenizer has no token " + std::to_string(token));
      }
      text += *tables_.bytes_of[token];
    }
    return text;
  }

  std::uint32_t vocabulary() const override { return static_cast<std::uint32_t>(tables_.bytes_of.size()); }
  std::optional<TokenId> end_of_text() const override { return tables_.end_of_text; }

 private:
  static constexpr std::size_t kCachedWords = 1U << 16;
  static constexpr std::size_t kCachedWordBytes = 32;
  using WordCache = std::unordered_map<std::string, std::vector<TokenId>>;

  [[nodiscard]] const std::pair<std::string, TokenId>* added_at(std::string_view text) const {
    if (!tables_.starts_added[static_cast<std::uint8_t>(text[0])]) return nullptr;
    for (const auto& entry : tables_.added) {
      if (text.starts_with(entry.first)) return &entry;
    }
    return nullptr;
  }

  void encode_plain(std::string_view text, WordCache& cache, const Sink& sink) const {
    std::string prefixed;
    if (tables_.add_prefix_space && text[0] != ' ') {
      prefixed.reserve(text.size() + 1);
      prefixed.append(1, ' ').append(text);
      text = prefixed;
    }
    while (!text.empty()) {
      const std::string_view word = text.substr(0, next_word(text));
      text.remove_prefix(word.size());
      if (word.size() > kCachedWordBytes) {
        sink(merge(word));
        continue;
      }
      auto found = cache.find(std::string(word));
      if (found == cache.end()) {
        if (cache.size() >= kCachedWords) cache.clear();
        found = cache.emplace(word, merge(word)).first;
      }
      sink(found->second);
    }
  }

  [[nodiscard]] const Merge* merge_of(TokenId left, TokenId right) const {
    const auto found = tables_.merges.find((std::uint64_t{left} << 32) | right);
    return found == tables_.merges.end() ? nullptr : &found->second;
  }

  // Joins pairs by rank, leftmost first. A heap keeps this n·log n for one endless word.
  [[nodiscard]] std::vector<TokenId> merge(std::string_view word) const {
    struct Symbol {
      TokenId token;
      std::int64_t previous;
      std::int64_t next;
    };
    struct Candidate {
      std::uint32_t rank;
      std::int64_t left;
      TokenId left_token, right_token, joined;
    };
    const auto later = [](const Candidate& a, const Candidate& b) {
      return std::pair(a.rank, a.left) > std::pair(b.rank, b.left);
    };
    const auto count = static_cast<std::int64_t>(word.size());
    std::vector<Symbol> symbols;
    symbols.reserve(word.size());
    for (std::int64_t i = 0; i < count; ++i) {
      const auto byte = static_cast<std::uint8_t>(word[static_cast<std::size_t>(i)]);
      symbols.push_back({tables_.byte_token[byte], i - 1, i + 1 < count ? i + 1 : -1});
    }
    std::priority_queue<Candidate, std::vector<Candidate>, decltype(later)> candidates(later);
    const auto symbol = [&](std::int64_t i) -> Symbol& { return symbols[static_cast<std::size_t>(i)]; };
    const auto offer = [&](std::int64_t left) {
      if (left < 0 || symbol(left).next < 0) return;
      const TokenId a = symbol(left).token;
      const TokenId b = symbol(symbol(left).next).token;
      if (const Merge* found = merge_of(a, b)) candidates.push({found->rank, left, a, b, found->joined});
    };
    for (std::int64_t i = 0; i + 1 < count; ++i) offer(i);
    while (!candidates.empty()) {
      const Candidate best = candidates.top();
      candidates.pop();
      Symbol& left = symbol(best.left);
      // Joins made since may have changed either side; a symbol taken over holds kNoToken.
      if (left.token != best.left_token || left.next < 0 || symbol(left.next).token != best.right_token) continue;
      Symbol& right = symbol(left.next);
      left.token = best.joined;
      right.token = kNoToken;
      left.next = right.next;
      if (left.next >= 0) symbol(left.next).previous = best.left;
      offer(left.previous);
      offer(best.left);
    }
    std::vector<TokenId> tokens;
    for (std::int64_t i = 0; i >= 0; i = symbol(i).next) tokens.push_back(symbol(i).token);
    return tokens;
  }

  Tables tables_;
};

// Reads the document into Tables; every failure names the file and the key.
class Parser {
 public:
  Parser(const Json& document, const std::string& name) : document_(document), name_(name) {}

  Result<Tables> parse() {
    if (!document_.is_object()) return fail("is not a JSON object");
    PLANARIA_TRY(check_kind());
    PLANARIA_TRY(read_vocabulary());
    PLANARIA_TRY(read_merges());
    PLANARIA_TRY(read_added());
    return std::move(tables_);
  }

 private:
  [[nodiscard]] Error fail(const std::string& what) const {
    return {ErrorCode::invalid_argument, "tokenizer file '" + name_ + "' " + what};
  }
  [[nodiscard]] Error refuse(const std::string& what) const {
    return {ErrorCode::unsupported, "tokenizer file '" + name_ + "' asks for " + what +
                                        "; only GPT-2's byte-level BPE is supported (model BPE, pre_tokenizer "
                                        "ByteLevel with its own regular expression, no normalizer)"};
  }
  [[nodiscard]] static const Json* member(const Json& object, const char* key) {
    const auto found = object.find(key);
    return found == object.end() || found->is_null() ? nullptr : &*found;
  }
  [[nodiscard]] static bool flag(const Json& object, const char* key, bool otherwise) {
    const Json* value = member(object, key);
    return value != nullptr && value->is_boolean() ? value->get<bool>() : otherwise;
  }
  [[nodiscard]] static std::string text(const Json& object, const char* key) {
    const Json* value = member(object, key);
    return value != nullptr && value->is_string() ? value->get<std::string>() : std::string();
  }

  Status check_kind() {
    const Json* model = member(document_, "model");
    if (model == nullptr || !model->is_object()) return fail("has no object 'model'");
    model_ = model;
    const std::string type = text(*model, "type");
    if (!type.empty() && type != "BPE") return refuse("model type '" + type + "'");
    if (!text(*model, "continuing_subword_prefix").empty() || !text(*model, "end_of_word_suffix").empty()) {
      return refuse("a sub-word prefix or suffix");
    }
    if (flag(*model, "byte_fallback", false)) return refuse("byte fallback");
    if (flag(*model, "ignore_merges", false)) return refuse("ignore_merges");
    if (member(document_, "normalizer") != nullptr) return refuse("a normalizer");
    const Json* pre = member(document_, "pre_tokenizer");
    if (pre == nullptr || !pre->is_object() || text(*pre, "type") != "ByteLevel" || !flag(*pre, "use_regex", true)) {
      return refuse("another pre-tokenizer");
    }
    tables_.add_prefix_space = flag(*pre, "add_prefix_space", true);
    return ok_status();
  }

  Status read_vocabulary() {
    const Json* vocab = member(*model_, "vocab");
    if (vocab == nullptr || !vocab->is_object() || vocab->empty()) return fail("has no object 'model.vocab'");
    const std::array<std::uint32_t, 256> alphabet = byte_alphabet();
    std::unordered_map<std::uint32_t, char> byte_of;
    for (std::uint32_t byte = 0; byte < 256; ++byte) byte_of[alphabet[byte]] = static_cast<char>(byte);
    for (const auto& [key, value] : vocab->items()) {
      if (!value.is_number_unsigned() || value.get<std::uint64_t>() >= kMaxVocabulary) {
        return fail("gives '" + key + "' an id that is not a number below 2^20");
      }
      const auto id = value.get<TokenId>();
      ids_[key] = id;
      PLANARIA_TRY(set_bytes(id, from_alphabet(key, byte_of)));
    }
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const auto found = ids_.find(utf8(alphabet[byte]));
      if (found == ids_.end()) return fail("lacks the token of byte " + std::to_string(byte) + " in 'model.vocab'");
      tables_.byte_token[byte] = found->second;
    }
    return ok_status();
  }

  // The bytes a vocabulary entry stands for; entries with characters outside the alphabet stand for themselves.
  static std::string from_alphabet(const std::string& key, const std::unordered_map<std::uint32_t, char>& byte_of) {
    std::string bytes;
    for (std::size_t i = 0; i < key.size(); ++i) {
      auto code_point = static_cast<std::uint32_t>(static_cast<std::uint8_t>(key[i]));
      if (code_point >= 0xC0 && code_point < 0xE0 && i + 1 < key.size()) {
        code_point = ((code_point & 0x1FU) << 6) | (static_cast<std::uint8_t>(key[++i]) & 0x3FU);
      } else if (code_point >= 0x80) {
        return key;
      }
      const auto found = byte_of.find(code_point);
      if (found == byte_of.end()) return key;
      bytes.push_back(found->second);
    }
    return bytes;
  }

  Status set_bytes(TokenId id, std::string bytes) {
    if (id >= tables_.bytes_of.size()) tables_.bytes_of.resize(id + 1);
    if (tables_.bytes_of[id] && *tables_.bytes_of[id] != bytes)
      return fail("gives id " + std::to_string(id) + " twice");
    tables_.bytes_of[id] = std::move(bytes);
    return ok_status();
  }

  Status read_merges() {
    const Json* merges = member(*model_, "merges");
    if (merges == nullptr || !merges->is_array()) return fail("has no array 'model.merges'");
    for (std::uint32_t rank = 0; rank < merges->size(); ++rank) {
      const Json& entry = (*merges)[rank];
      std::string left;
      std::string right;
      if (entry.is_string()) {  // "left right"
        const auto joined = entry.get<std::string>();
        const std::size_t gap = joined.find(' ');
        if (gap != std::string::npos) {
          left = joined.substr(0, gap);
          right = joined.substr(gap + 1);
        }
      } else if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string()) {
        left = entry[0].get<std::string>();
        right = entry[1].get<std::string>();
      }
      const auto a = ids_.find(left);
      const auto b = ids_.find(right);
      const auto both = ids_.find(left + right);
      if (a == ids_.end() || b == ids_.end() || both == ids_.end()) {
        return fail("has a merge (number " + std::to_string(rank) + ") whose parts or result are not in 'model.vocab'");
      }
      tables_.merges.try_emplace((std::uint64_t{a->second} << 32) | b->second, Merge{rank, both->second});
    }
    return ok_status();
  }

  Status read_added() {
    const Json* added = member(document_, "added_tokens");
    if (added == nullptr) return ok_status();
    if (!added->is_array()) return fail("has an 'added_tokens' that is not an array");
    for (const Json& entry : *added) {
      const Json* id = entry.is_object() ? member(entry, "id") : nullptr;
      const std::string content = entry.is_object() ? text(entry, "content") : std::string();
      if (id == nullptr || !id->is_number_unsigned() || id->get<std::uint64_t>() >= kMaxVocabulary || content.empty()) {
        return fail("has an added token without a proper id and content");
      }
      if (flag(entry, "lstrip", false) || flag(entry, "rstrip", false) || flag(entry, "single_word", false)) {
        return refuse("an added token that strips space or matches single words ('" + content + "')");
      }
      const auto token = id->get<TokenId>();
      if (token >= tables_.bytes_of.size()) tables_.bytes_of.resize(token + 1);
      tables_.bytes_of[token] = content;
      tables_.starts_added[static_cast<std::uint8_t>(content[0])] = true;
      if (content == "<|endoftext|>") tables_.end_of_text = token;
      tables_.added.emplace_back(content, token);
    }
    std::ranges::stable_sort(tables_.added,
                             [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
    return ok_status();
  }

  const Json& document_;
  const std::string& name_;
  const Json* model_ = nullptr;
  std::unordered_map<std::string, TokenId> ids_;
  Tables tables_;
};

}  // namespace

Result<std::unique_ptr<Tokenizer>> parse_bpe_tokenizer(std::string_view json, const std::string& name) {
  const Json document = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return Error(ErrorCode::invalid_argument, "'" + name + "' is not valid JSON");
  PLANARIA_ASSIGN(Tables tables, Parser(document, name).parse());
  return std::unique_ptr<Tokenizer>(std::make_unique<BpeTokenizer>(std::move(tables)));
}

}  // namespace planaria
