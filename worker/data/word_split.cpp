#include "worker/data/word_split.hpp"

#include <algorithm>
#include <array>

namespace planaria {
namespace {

struct Character {
  CharacterClass kind = CharacterClass::other;
  std::size_t bytes = 1;
};

bool contains(std::span<const CodePointRange> ranges, std::uint32_t code_point) {
  const auto after = std::ranges::upper_bound(ranges, code_point, {}, &CodePointRange::first);
  return after != ranges.begin() && code_point <= std::prev(after)->last;
}

// Unicode White_Space.
bool is_space(std::uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

CharacterClass classify_slowly(std::uint32_t code_point) {
  if (is_space(code_point)) return CharacterClass::space;
  if (contains(unicode_letters(), code_point)) return CharacterClass::letter;
  if (contains(unicode_numbers(), code_point)) return CharacterClass::number;
  return CharacterClass::other;
}

// The character at the front of `text`, refusing overlong forms, surrogates and values above U+10FFFF.
Character read_character(std::string_view text) {
  const auto lead = static_cast<std::uint8_t>(text[0]);
  if (lead < 0x80) return {classify(lead), 1};
  const std::size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < bytes) return {};
  std::uint32_t code_point = lead & (0x7FU >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    const auto next = static_cast<std::uint8_t>(text[i]);
    if ((next & 0xC0U) != 0x80) return {};
    code_point = (code_point << 6) | (next & 0x3FU);
  }
  constexpr std::array<std::uint32_t, 5> kSmallest{0, 0, 0x80, 0x800, 0x10000};
  if (code_point < kSmallest[bytes] || code_point > 0x10FFFF || (code_point >= 0xD800 && code_point <= 0xDFFF))
    return {};
  return {classify(code_point), bytes};
}

// Bytes of the run of `kind` characters that begins at `at`, from `at`.
std::size_t run_length(std::string_view text, std::size_t at, CharacterClass kind) {
  const std::size_t start = at;
  while (at < text.size()) {
    const Character next = read_character(text.substr(at));
    if (next.kind != kind) break;
    at += next.bytes;
  }
  return at - start;
}

// Bytes of 's 't 're 've 'm 'll 'd at the front, or 0.
std::size_t contraction(std::string_view text) {
  constexpr std::array<std::string_view, 7> kEndings{"s", "t", "re", "ve", "m", "ll", "d"};
  for (const std::string_view ending : kEndings) {
    if (text.substr(1).starts_with(ending)) return 1 + ending.size();
  }
  return 0;
}

}  // namespace

CharacterClass classify(std::uint32_t code_point) {
  static const auto ascii = [] {
    std::array<CharacterClass, 128> table{};
    for (std::uint32_t c = 0; c < table.size(); ++c) table[c] = classify_slowly(c);
    return table;
  }();
  return code_point < ascii.size() ? ascii[code_point] : classify_slowly(code_point);
}

std::size_t next_word(std::string_view text) {
  if (text[0] == '\'') {
    if (const std::size_t bytes = contraction(text); bytes != 0) return bytes;
  }
  const Character first = read_character(text);
  if (first.kind != CharacterClass::space) return first.bytes + run_length(text, first.bytes, first.kind);
  // " ?" in front of a word.
  if (text[0] == ' ' && text.size() > 1) {
    const Character second = read_character(text.substr(1));
    if (second.kind != CharacterClass::space) return 1 + run_length(text, 1, second.kind);
  }
  // White space up to the end, or all but its last character when a word follows, or that character alone.
  std::size_t at = 0;
  std::size_t last_character = 0;
  while (at < text.size()) {
    const Character next = read_character(text.substr(at));
    if (next.kind != CharacterClass::space) return last_character == 0 ? at : last_character;
    last_character = at;
    at += next.bytes;
  }
  return at;
}

}  // namespace planaria
