// What a worker and its host's keeper say to each other to get copies of state into the keeper's memory, over a local
// socket (common/local_socket.hpp).
//
// The worker asks for memory, is handed some, fills it, and tells what lies in it. From then on that memory is the
// keeper's until it is lent again. A connection's memory goes to no other: who was fenced and writes on spoils nobody's
// copy but its own, which its hash shows.
//
// Thread contract: plain values.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "common/hash.hpp"
#include "common/ids.hpp"
#include "proto/state_map.hpp"

namespace planaria {

// ---- worker → keeper ----

struct CopyHello {
  WorkerId worker;
  Incarnation incarnation;
  template <class V>
  void fields(V& v) {
    v(worker, incarnation);
  }
};

struct WantMemory {
  std::uint64_t bytes = 0;
  template <class V>
  void fields(V& v) {
    v(bytes);
  }
};

// Tiles that lie one behind the other in lent memory, each with master, first and second moment, and their hashes. A
// copy of many tiles is told in several messages.
struct SealedTiles {
  static constexpr std::size_t kMostTiles = 4000;  // in one message

  std::uint32_t memory = 0;
  std::uint64_t offset = 0;
  ViewNumber view;
  Step stamp;
  std::vector<TileRange> tiles;
  std::vector<Hash128> hashes;
  template <class V>
  void fields(V& v) {
    v(memory, offset, view, stamp, tiles, hashes);
  }
};

using CopyMessage = std::variant<CopyHello, WantMemory, SealedTiles>;
struct CopyEnvelope {
  CopyMessage message;
  template <class V>
  void fields(V& v) {
    v(message);
  }
};

// ---- keeper → worker, one for each WantMemory ----

// The memory's file comes with its first lending.
struct LentMemory {
  bool ok = true;
  std::uint32_t memory = 0;
  std::string why;  // not
  template <class V>
  void fields(V& v) {
    v(ok, memory, why);
  }
};

}  // namespace planaria
