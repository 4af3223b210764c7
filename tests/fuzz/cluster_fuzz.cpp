// A cluster file may hold anything; one that is accepted is sound, and comes back as a cluster of as many workers.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "coordinator/planner/cluster_file.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria;
  const auto file = parse_cluster(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz.toml");
  if (!file) return 0;
  ModelProfile model;
  model.blocks.push_back({"block", 1, 2, 1, 0});
  model.tile_elements = 1;
  if (!check_profiles(model, file->cluster)) std::abort();
  if (file->cluster.workers.size() > 100) return 0;  // the text would be long
  const auto again = parse_cluster(cluster_to_toml(*file), "again.toml");
  if (!again || again->cluster.workers.size() != file->cluster.workers.size()) std::abort();
  return 0;
}
