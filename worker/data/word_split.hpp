// GPT-2's pre-tokenizer: cuts text into the words inside which BPE merges.
//
// The rule is the regular expression
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// coded by hand; \p{L} and \p{N} come from a table of Unicode 14 (unicode_ranges.cpp). A byte that is not part of
// valid UTF-8 counts as one character of the third kind.
//
// Thread contract: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace planaria {

enum class CharacterClass : std::uint8_t { letter, number, space, other };

struct CodePointRange {
  std::uint32_t first;
  std::uint32_t last;
};

// Sorted, disjoint, inclusive: general categories L* and N*.
[[nodiscard]] std::span<const CodePointRange> unicode_letters();
[[nodiscard]] std::span<const CodePointRange> unicode_numbers();

[[nodiscard]] CharacterClass classify(std::uint32_t code_point);

// Bytes of the first word of `text`. Precondition: text is not empty. The result is at least 1.
[[nodiscard]] std::size_t next_word(std::string_view text);

}  // namespace planaria
