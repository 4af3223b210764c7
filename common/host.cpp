#include "common/host.hpp"

#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>

namespace planaria {

Result<std::string> own_executable() {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return Error(ErrorCode::io, "can't find this executable: " + error.message());
  return path.string();
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "unknown";
}

std::uint64_t host_memory_bytes() {
  const long pages = ::sysconf(_SC_PHYS_PAGES);
  const long page = ::sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 ? static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page) : 0;
}

// "MemAvailable:   12345 kB": proc(5).
std::uint64_t available_memory_bytes() {
  std::ifstream table("/proc/meminfo");
  std::string key, unit;
  std::uint64_t value = 0;
  while (table >> key >> value && std::getline(table, unit)) {
    if (key == "MemAvailable:") return value << 10;
  }
  return 0;
}

}  // namespace planaria
