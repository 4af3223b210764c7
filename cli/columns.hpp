// Text by the columns that it takes in a terminal: UTF-8, wide characters and colour sequences counted as they show.
//
// Thread contract: pure functions.
#pragma once

#include <string>
#include <string_view>

namespace planaria {

// Columns of a line; sequences ESC [ … letter take none. Bytes that aren't UTF-8 take one each.
[[nodiscard]] int columns(std::string_view line);

// The line in at most `width` columns: what is longer ends in "…", never inside a character or a sequence, and with
// its colours switched off.
[[nodiscard]] std::string clip_columns(std::string_view line, int width);

}  // namespace planaria
