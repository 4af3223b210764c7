#include "storage/strict_json.hpp"

#include <set>
#include <string>
#include <vector>

namespace planaria {

// nlohmann's parser keeps its stack on the heap.
std::optional<nlohmann::json> parse_strict_json(std::string_view text, int max_depth) {
  using nlohmann::json;
  bool acceptable = true;
  std::vector<std::set<std::string>> keys(static_cast<std::size_t>(max_depth) + 2);  // of open objects, by depth
  const auto watch = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > max_depth || !acceptable) return acceptable = false;
    const auto level = static_cast<std::size_t>(depth);
    if (event == json::parse_event_t::object_start) keys[level + 1].clear();
    if (event == json::parse_event_t::key) acceptable = keys[level].insert(parsed.get<std::string>()).second;
    return acceptable;
  };
  json parsed = json::parse(text, watch, false);
  if (!acceptable || parsed.is_discarded() || !parsed.is_object()) return std::nullopt;
  return parsed;
}

}  // namespace planaria
