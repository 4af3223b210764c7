#include "cli/columns.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace planaria {
namespace {

// One character, byte that is none, or colour sequence.
struct Piece {
  std::size_t bytes = 1;
  int columns = 1;
};

using Ranges = std::pair<std::uint32_t, std::uint32_t>;
// The blocks that matter of Unicode's EastAsianWidth.txt (W and F), and of its combining marks.
constexpr std::array<Ranges, 10> kWide = {{{0x1100, 0x115F},
                                           {0x26A1, 0x26A1},
                                           {0x2E80, 0xA4CF},
                                           {0xAC00, 0xD7A3},
                                           {0xF900, 0xFAFF},
                                           {0xFE30, 0xFE6F},
                                           {0xFF00, 0xFF60},
                                           {0xFFE0, 0xFFE6},
                                           {0x1F300, 0x1FAFF},
                                           {0x20000, 0x3FFFD}}};
constexpr std::array<Ranges, 3> kWithoutColumn = {{{0x300, 0x36F}, {0x200B, 0x200F}, {0xFE00, 0xFE0F}}};

template <std::size_t N>
bool in(const std::array<Ranges, N>& ranges, std::uint32_t point) {
  return std::ranges::any_of(ranges, [&](const Ranges& r) { return point >= r.first && point <= r.second; });
}

std::size_t sequence_bytes(std::string_view rest) {
  std::size_t end = 2;
  while (end < rest.size() && (rest[end] < '@' || rest[end] > '~')) ++end;
  return std::min(end + 1, rest.size());
}

// `rest` isn't empty.
Piece first_piece(std::string_view rest) {
  if (rest.starts_with("\033[")) return {sequence_bytes(rest), 0};
  const auto lead = static_cast<unsigned char>(rest[0]);
  const std::size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
  if (bytes == 1 || bytes > rest.size()) return {};
  std::uint32_t point = lead & (0xFFU >> (bytes + 1));
  for (std::size_t i = 1; i < bytes; ++i) {
    const auto next = static_cast<unsigned char>(rest[i]);
    if ((next & 0xC0U) != 0x80) return {};
    point = point << 6 | (next & 0x3FU);
  }
  return {bytes, in(kWithoutColumn, point) ? 0 : in(kWide, point) ? 2 : 1};
}

}  // namespace

int columns(std::string_view line) {
  int sum = 0;
  while (!line.empty()) {
    const Piece piece = first_piece(line);
    sum += piece.columns;
    line.remove_prefix(piece.bytes);
  }
  return sum;
}

std::string clip_columns(std::string_view line, int width) {
  if (columns(line) <= width) return std::string(line);
  std::string out;
  bool coloured = false;
  int left = width - 1;
  while (!line.empty()) {
    const Piece piece = first_piece(line);
    if (piece.columns > left) break;
    coloured = coloured || line[0] == '\033';
    left -= piece.columns;
    out += line.substr(0, piece.bytes);
    line.remove_prefix(piece.bytes);
  }
  if (width > 0) out += "…";
  return coloured ? out + "\033[0m" : out;
}

}  // namespace planaria
