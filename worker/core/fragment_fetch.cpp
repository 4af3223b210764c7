#include "worker/core/fragment_fetch.hpp"

#include <algorithm>

namespace planaria {

bool FragmentFetch::Chunk::whole() const {
  return std::ranges::all_of(sources, &Source::here);
}

FragmentFetch::FragmentFetch(const StateMap& map, const FragmentRebuild& rebuild, const TileSet& wanted,
                             std::uint32_t chunk_tiles, WorkerId self)
    : rebuild_(rebuild) {
  const Stripe& stripe = rebuild.layout;
  std::uint64_t offset = 0;
  std::uint32_t tiles = 0;  // of the last chunk
  for (const TileRange run : stripe.fragments[rebuild.fragment].tiles) {
    for (std::uint32_t tile = run.begin; tile < run.end; ++tile) {
      const std::uint64_t bytes = kTensorsOfState * map.bytes({tile, tile + 1});
      if (wanted.contains(TileIndex(tile))) {
        const bool joins =
            !chunks_.empty() && tiles < chunk_tiles && chunks_.back().offset + chunks_.back().bytes == offset;
        if (!joins) {
          chunks_.push_back({.tiles = {}, .offset = offset, .bytes = 0, .sources = {}, .hashes = {}, .hashed_by = {}});
          tiles = 0;
        }
        Chunk& chunk = chunks_.back();
        if (!chunk.tiles.empty() && chunk.tiles.back().end == tile) {
          ++chunk.tiles.back().end;
        } else {
          chunk.tiles.push_back({tile, tile + 1});
        }
        chunk.bytes += bytes;
        ++tiles;
      }
      offset += bytes;
    }
  }
  for (Chunk& chunk : chunks_) {
    for (const FragmentSource& from : rebuild.sources) {
      const std::uint64_t has = from.fragment < stripe.data ? fragment_bytes(map, stripe.fragments[from.fragment])
                                                            : stripe_bytes(map, stripe);
      const std::uint64_t end = std::min(has, chunk.offset + chunk.bytes);
      const std::uint64_t bytes = end > chunk.offset ? end - chunk.offset : 0;
      chunk.sources.push_back({from, bytes, bytes == 0 || from.from == self, nullptr});
    }
  }
}

std::vector<std::pair<WorkerId, FragmentRequest>> FragmentFetch::requests() const {
  std::vector<std::pair<WorkerId, FragmentRequest>> requests;
  for (const Chunk& chunk : chunks_) {
    for (const Source& source : chunk.sources) {
      if (source.here) continue;
      requests.push_back(
          {source.of.from,
           {part_of(chunk, source), rebuild_.layout.fragments[source.of.fragment].tiles, rebuild_.fragment}});
    }
  }
  return requests;
}

std::optional<WorkerId> FragmentFetch::waiting_for() const {
  for (const Chunk& chunk : chunks_) {
    for (const Source& source : chunk.sources) {
      if (!source.here) return source.of.from;
    }
  }
  return std::nullopt;
}

bool FragmentFetch::wants(WorkerId from, const FragmentPart& part) const {
  return std::ranges::any_of(chunks_, [&](const Chunk& chunk) {
    return std::ranges::any_of(chunk.sources, [&](const Source& source) {
      return source.of.from == from && !source.here && part_of(chunk, source) == part;
    });
  });
}

std::optional<worker_action::RebuildState> FragmentFetch::take(const FragmentReply& reply, PayloadRef payload) {
  const FragmentPart& part = reply.part;
  const auto chunk = std::ranges::find(chunks_, part.offset, &Chunk::offset);
  const auto source =
      std::ranges::find(chunk->sources, part.fragment, [](const Source& candidate) { return candidate.of.fragment; });
  source->here = true;
  source->payload = std::move(payload);
  if (part.fragment >= rebuild_.layout.data && !chunk->hashed_by) {
    chunk->hashes = reply.hashes;
    chunk->hashed_by = source->of.from;
  }
  return make(chunk);
}

std::vector<worker_action::RebuildState> FragmentFetch::take_own() {
  std::vector<worker_action::RebuildState> ready;
  for (auto chunk = chunks_.begin(); chunk != chunks_.end();) {
    if (chunk->whole()) {
      ready.push_back(*make(chunk));  // takes the chunk off the list
    } else {
      ++chunk;
    }
  }
  return ready;
}

std::optional<worker_action::RebuildState> FragmentFetch::make(std::vector<Chunk>::iterator chunk) {
  if (!chunk->whole()) return std::nullopt;
  worker_action::RebuildState action{rebuild_.snapshot, rebuild_.stripe, rebuild_.layout, rebuild_.fragment,
                                     chunk->offset,     chunk->bytes,    chunk->tiles,    {},
                                     chunk->hashes,     chunk->hashed_by};
  for (Source& each : chunk->sources) action.inputs.push_back({each.of.fragment, each.bytes, std::move(each.payload)});
  chunks_.erase(chunk);
  return action;
}

}  // namespace planaria
