// How a member makes state that nobody holds from fragments of a snapshot: it asks k holders for the same bytes of
// theirs, in chunks, and has each chunk's tiles made when all its parts are here.
//
// Thread contract: owned by WorkerCore.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "proto/layout.hpp"
#include "proto/snapshot_message.hpp"
#include "proto/tile_set.hpp"
#include "worker/core/events.hpp"

namespace planaria {

class FragmentFetch {
 public:
  // Tiles of one rebuild, in chunks of so many. Precondition: check_rebuild() holds.
  FragmentFetch(const StateMap& map, const FragmentRebuild& rebuild, const TileSet& wanted, std::uint32_t chunk_tiles,
                WorkerId self);

  [[nodiscard]] bool done() const { return chunks_.empty(); }
  // Whose reply the next chunk lacks.
  [[nodiscard]] std::optional<WorkerId> waiting_for() const;
  [[nodiscard]] std::vector<std::pair<WorkerId, FragmentRequest>> requests() const;
  // Chunks of which all is here from the start.
  [[nodiscard]] std::vector<worker_action::RebuildState> take_own();
  // Whether the reply is to one of the requests that nothing came to yet.
  [[nodiscard]] bool wants(WorkerId from, const FragmentPart& part) const;
  // What is to be made once it is the last of its chunk. Precondition: wants().
  [[nodiscard]] std::optional<worker_action::RebuildState> take(const FragmentReply& reply, PayloadRef payload);

 private:
  struct Source {
    FragmentSource of;
    std::uint64_t bytes = 0;  // of the chunk, that the fragment has; 0: it is zeros there
    bool here = false;        // or nothing is needed
    PayloadRef payload;
  };
  struct Chunk {
    std::vector<TileRange> tiles;  // of the fragment, next to each other there
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
    std::vector<Source> sources;
    std::vector<Hash128> hashes;  // of the tiles, as the first parity that came tells them
    std::optional<WorkerId> hashed_by;
    [[nodiscard]] bool whole() const;
  };
  [[nodiscard]] std::optional<worker_action::RebuildState> make(std::vector<Chunk>::iterator chunk);
  [[nodiscard]] FragmentPart part_of(const Chunk& chunk, const Source& source) const {
    return {rebuild_.snapshot, rebuild_.stripe, source.of.fragment, chunk.offset, source.bytes};
  }

  FragmentRebuild rebuild_;
  std::vector<Chunk> chunks_;
};

}  // namespace planaria
