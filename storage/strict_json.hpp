// JSON from files that nobody vouches for, without what parsers differ about: keys that come twice are refused, not
// chosen among, and so is more nesting than the format has.
//
// Thread contract: pure functions.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

namespace planaria {

// The object that the text is; nothing for malformed text, another value, a repeated key, or values that lie in more
// than `max_depth` objects and arrays. Memory grows with the text only, and depth can't exhaust the stack.
[[nodiscard]] std::optional<nlohmann::json> parse_strict_json(std::string_view text, int max_depth);

}  // namespace planaria
