#include "cli/snapshot_list.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>

namespace planaria {
namespace {

std::uint32_t tiles_there(const DurableSnapshot& snapshot, const StateMap& map) {
  return map.tiles_with_state().end - snapshot.missing.size();
}

std::string time_text(std::int64_t unix_ms) {
  const std::time_t seconds = unix_ms / 1000;
  std::tm parts{};
  // What a damaged record tells needn't be a date.
  if (gmtime_r(&seconds, &parts) == nullptr) return "?";
  return fmt::format("{:%Y-%m-%d %H:%M:%S}", parts);
}

nlohmann::json name_json(const DurableSnapshot& snapshot) {
  return {{"step", snapshot.name.step.value()},
          {"view", snapshot.name.layout.value()},
          {"numeric_class", snapshot.numeric_class}};
}

nlohmann::json refusals_json(const std::vector<Refusal>& refusals) {
  nlohmann::json list = nlohmann::json::array();
  for (const Refusal& refusal : refusals) list.push_back({{"path", refusal.path}, {"why", refusal.reason.message()}});
  return list;
}

}  // namespace

std::string bytes_text(std::uint64_t bytes) {
  constexpr std::array kUnits{"kB", "MB", "GB", "TB", "PB", "EB"};
  if (bytes < 1000) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1000;
  std::size_t unit = 0;
  for (; value >= 999.5 && unit + 1 < kUnits.size(); ++unit) value /= 1000;
  return fmt::format("{:.{}f} {}", value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0, kUnits.at(unit));
}

std::string snapshot_table(const DurableCatalog& catalog, const StateMap& map) {
  std::string text = fmt::format("{:>10}  {:>6}  {:<10}  {:>15}  {:>9}  {:>7}  {}\n", "STEP", "VIEW", "STATE", "TILES",
                                 "SIZE", "KEEPERS", "BEGUN (UTC)");
  for (const DurableSnapshot& snapshot : catalog.snapshots) {
    const char* state = snapshot.complete() ? "complete" : snapshot.differing.empty() ? "incomplete" : "damaged";
    text += fmt::format("{:>10}  {:>6}  {:<10}  {:>15}  {:>9}  {:>7}  {}\n", snapshot.name.step.value(),
                        snapshot.name.layout.value(), state,
                        fmt::format("{}/{}", tiles_there(snapshot, map), map.tiles_with_state().end),
                        bytes_text(snapshot.bytes()), snapshot.parts.size(), time_text(snapshot.unix_ms()));
    for (const std::string& problem : snapshot.problems) text += fmt::format("{:>12}{}\n", "", problem);
  }
  for (const Refusal& refusal : catalog.refused) {
    text += fmt::format("not read: {}\n", refusal.reason.message());
  }
  return text;
}

nlohmann::json snapshot_table_json(const DurableCatalog& catalog, const StateMap& map) {
  nlohmann::json snapshots = nlohmann::json::array();
  for (const DurableSnapshot& snapshot : catalog.snapshots) {
    nlohmann::json entry = name_json(snapshot);
    entry["complete"] = snapshot.complete();
    entry["promised"] = snapshot.promised(map);
    entry["tiles"] = tiles_there(snapshot, map);
    entry["tiles_of_model"] = map.tiles_with_state().end;
    entry["bytes"] = snapshot.bytes();
    entry["unix_ms"] = snapshot.unix_ms();
    entry["problems"] = snapshot.problems;
    entry["keepers"] = nlohmann::json::array();
    for (const PlacedPart& part : snapshot.parts) {
      entry["keepers"].push_back({{"keeper", part.keeper},
                                  {"tiles", part.tiles.size()},
                                  {"bytes", part.bytes},
                                  {"unix_ms", part.unix_ms},
                                  {"promised", part.promised}});
    }
    snapshots.push_back(std::move(entry));
  }
  return {{"snapshots", std::move(snapshots)}, {"refused", refusals_json(catalog.refused)}};
}

std::string verdict_text(const DurableSnapshot& snapshot, const DurableVerdict& verdict) {
  std::string text = fmt::format("step {}, view {}: ", snapshot.name.step.value(), snapshot.name.layout.value());
  if (verdict.sound()) return text + fmt::format("sound, {}\n", bytes_text(verdict.bytes));
  text += verdict.lost.empty()
              ? fmt::format("{} tiles damaged, each with a sound copy at another keeper\n", verdict.damaged.size())
              : fmt::format("damaged, {} tiles are lost\n", verdict.lost.size());
  for (const Refusal& problem : verdict.problems) text += fmt::format("  {}\n", problem.reason.message());
  return text;
}

nlohmann::json verdict_json(const DurableSnapshot& snapshot, const DurableVerdict& verdict) {
  nlohmann::json entry = name_json(snapshot);
  entry["sound"] = verdict.sound();
  entry["bytes"] = verdict.bytes;
  entry["tiles_damaged"] = verdict.damaged.size();
  entry["tiles_lost"] = verdict.lost.size();
  entry["problems"] = refusals_json(verdict.problems);
  return entry;
}

}  // namespace planaria
