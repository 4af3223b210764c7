// Keepers that write durable snapshots on a simulated disk, for the tests of this folder.
//
// Thread contract: one thread.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/clock.hpp"
#include "common/file_faults.hpp"
#include "common/file_memory.hpp"
#include "common/philox.hpp"
#include "storage/durable_catalog.hpp"
#include "storage/durable_store.hpp"
#include "tests/small_model.hpp"
#include "tests/storage/rocksdb_disk.hpp"

namespace planaria {

constexpr SnapshotName named(std::uint64_t step, std::uint64_t view = 1) {
  return {Step(step), ViewNumber(view)};
}

class DurableKeepers {
 public:
  static constexpr std::uint32_t kTileElements = 128;

  const ModelSpec model = small_model();
  const StateMap map{model, kTileElements};
  const CheckpointIdentity identity{hash_of(std::span("job", 3)), "avx2"};
  const std::string root = "run/snapshots";
  ManualClock clock;
  std::unique_ptr<MemoryFileSystem> disk = std::make_unique<MemoryFileSystem>();
  FaultyFileSystem files{*disk};
  std::unique_ptr<rocksdb::Env> env = rocksdb_on(files);

  [[nodiscard]] std::uint32_t tiles() const { return map.tiles_with_state().end; }

  // A tile's state after a step: the same whoever has it.
  [[nodiscard]] std::vector<float> content(std::uint32_t tile, Step step) const {
    PhiloxStream random(philox_key(step.value() * 1000 + tile, RandomPurpose::tests));
    std::vector<float> values(tile_state_bytes(map, tile) / sizeof(float));
    for (float& value : values) value = unit_float(random.next_u32()) - 0.5F;
    return values;
  }

  [[nodiscard]] DurableOptions options(const std::string& keeper) const {
    DurableOptions options;
    options.root = root;
    options.keeper = keeper;
    options.segment_bytes = 4 * kTensorsOfState * kTileElements * sizeof(float);  // a few tiles
    options.index_env = env.get();
    return options;
  }
  [[nodiscard]] Result<std::unique_ptr<DurableStore>> open(const std::string& keeper) {
    return DurableStore::open(files, clock, map, identity, options(keeper));
  }

  // A part from begin to finish; the first failure.
  [[nodiscard]] Status write(DurableStore& store, SnapshotName name, const TileSet& tiles) const {
    PLANARIA_TRY(store.begin(name, static_cast<std::int64_t>(1000 * name.step.value())));
    PLANARIA_TRY(append(store, name, tiles));
    return store.finish();
  }
  [[nodiscard]] Status append(DurableStore& store, SnapshotName name, const TileSet& tiles) const {
    for (const TileRange run : tiles.runs()) {
      for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
        const auto values = content(tile, name.step);
        const auto bytes = std::as_bytes(std::span(values));
        PLANARIA_TRY(store.append(TileIndex(tile), bytes, hash_bytes(bytes)));
      }
    }
    return ok_status();
  }

  [[nodiscard]] Result<DurableCatalog> catalog() {
    return read_catalog(files, root, map, identity.job_hash, env.get());
  }
  // Every copy is, byte for byte, what was told; without hashes that were read from the disk.
  [[nodiscard]] bool exact(const DurableSnapshot& snapshot) {
    DurableState state(files, map, identity.job_hash, snapshot);
    for (const DurableState::Copy& copy : state.copies()) {
      const auto values = content(copy.tile, snapshot.name.step);
      const auto bytes = state.read(copy);
      if (!bytes || !std::ranges::equal(bytes->bytes, std::as_bytes(std::span(values)))) return false;
    }
    return true;
  }
};

}  // namespace planaria
