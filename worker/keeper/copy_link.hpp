// What a worker and its host's keeper say to each other to get copies of state into the keeper's memory and back, over
// a local socket (common/local_socket.hpp).
//
// The worker asks for memory, is handed some, fills it, and tells what lies in it. From then on that memory is the
// keeper's until it is lent again. A connection's memory goes to no other: who was fenced and writes on spoils nobody's
// copy but its own, which its hash shows.
//
// A worker that lacks state asks where it lies and is handed that memory to read. It holds each tile against its hash,
// and says when it is done: until then the keeper leaves that memory as it is.
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
  WorkerId keeper;  // whom the view names
  template <class V>
  void fields(V& v) {
    v(bytes, keeper);
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

struct WantState {
  Step stamp;
  TileRange tiles;
  template <class V>
  void fields(V& v) {
    v(stamp, tiles);
  }
};

struct StateTaken {  // what WantState was answered with is read no more
  template <class V>
  void fields(V&) {}
};

using CopyMessage = std::variant<CopyHello, WantMemory, SealedTiles, WantState, StateTaken>;
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
  std::string why;                  // not
  std::vector<std::uint32_t> gone;  // memory that isn't lent again: the system has it back once the worker lets go
  template <class V>
  void fields(V& v) {
    v(ok, memory, why, gone);
  }
};

// One or more for each WantState, in the order of tiles: tiles that lie one behind the other in one memory, as in
// SealedTiles. The memory's file comes with its first part.
struct StatePart {
  bool ok = true;
  bool last = true;
  std::uint32_t memory = 0;  // of this answer
  std::uint64_t offset = 0;
  TileRange tiles;
  std::vector<Hash128> hashes;  // at most SealedTiles::kMostTiles
  std::string why;              // not
  template <class V>
  void fields(V& v) {
    v(ok, last, memory, offset, tiles, hashes, why);
  }
};

}  // namespace planaria
