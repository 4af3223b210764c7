// OUT/coordinator.json: where the coordinator of a directory is, for whoever starts or asks processes on its machine.
//
// Thread contract: free functions.
#pragma once

#include <cstdint>
#include <string>

#include "common/result.hpp"

namespace planaria {

struct CoordinatorFile {
  std::string address;  // to connect to: loopback when the coordinator listens on every address
  std::uint16_t control_port = 0;
  std::uint16_t http_port = 0;
  std::uint16_t telemetry_port = 0;  // 0: none

  // "address:port" as URLs and flags write it, with IPv6 in brackets.
  [[nodiscard]] std::string at(std::uint16_t port) const;
};

[[nodiscard]] std::string coordinator_file_path(const std::string& directory);

// not_found when the directory has none; corrupt when it isn't one.
[[nodiscard]] Result<CoordinatorFile> read_coordinator_file(const std::string& directory);

}  // namespace planaria
