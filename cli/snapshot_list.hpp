// Durable snapshots for people and for programs: `planaria snapshot`.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "storage/durable_catalog.hpp"

namespace planaria {

// "1.50 GB": three digits, powers of 1000.
[[nodiscard]] std::string bytes_text(std::uint64_t bytes);

// A head and a line a snapshot, newest first, each with what is wrong with it below; directories that were refused at
// the end. Ends with a line feed.
[[nodiscard]] std::string snapshot_table(const DurableCatalog& catalog, const StateMap& map);
[[nodiscard]] nlohmann::json snapshot_table_json(const DurableCatalog& catalog, const StateMap& map);

// "step 120, view 7: sound, 1.50 GB", or what is damaged, a file a line. Ends with a line feed.
[[nodiscard]] std::string verdict_text(const DurableSnapshot& snapshot, const DurableVerdict& verdict);
[[nodiscard]] nlohmann::json verdict_json(const DurableSnapshot& snapshot, const DurableVerdict& verdict);

}  // namespace planaria
