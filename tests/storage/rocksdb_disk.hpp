// RocksDB on one of the project's file systems: with one in memory under it a power cut, a full disk or a broken device
// hits RocksDB's own files as well.
//
// Thread contract: as RocksDB's environments; `base` takes calls from any thread.
#pragma once

#include <rocksdb/env.h>

#include <memory>

#include "common/file.hpp"

namespace planaria {

// `base` outlives it. RocksDB's own log of messages is written nowhere.
[[nodiscard]] std::unique_ptr<rocksdb::Env> rocksdb_on(FileSystem& base);

}  // namespace planaria
