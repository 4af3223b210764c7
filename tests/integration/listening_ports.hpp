// Which TCP ports a job's processes listen on, asked of the kernel: those in no file of ours are found as well.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

namespace planaria {

// Inodes of the sockets of every process whose command line contains `mark`.
inline std::set<std::string> socket_inodes(const std::string& mark) {
  namespace fs = std::filesystem;
  std::set<std::string> inodes;
  std::error_code error;
  for (const auto& process : fs::directory_iterator("/proc", error)) {
    std::ifstream file(process.path() / "cmdline", std::ios::binary);
    std::string command;
    std::getline(file, command);  // not by a buffer's iterator, which throws when the process ends meanwhile
    if (command.find(mark) == std::string::npos) continue;
    for (fs::directory_iterator fd(process.path() / "fd", error), end; !error && fd != end; fd.increment(error)) {
      const std::string target = fs::read_symlink(fd->path(), error).string();
      if (target.starts_with("socket:[")) inodes.insert(target.substr(8, target.size() - 9));
    }
  }
  return inodes;
}

inline std::set<std::uint16_t> listening_ports(const std::string& mark) {
  const auto inodes = socket_inodes(mark);
  std::set<std::uint16_t> ports;
  for (const char* table : {"/proc/net/tcp", "/proc/net/tcp6"}) {
    std::ifstream file(table);
    for (std::string line; std::getline(file, line);) {
      std::istringstream words(line);
      std::string number, local, remote, state, queues, timer, retransmits, user, timeout, inode;
      words >> number >> local >> remote >> state >> queues >> timer >> retransmits >> user >> timeout >> inode;
      if (state != "0A" || !inodes.contains(inode)) continue;
      ports.insert(static_cast<std::uint16_t>(std::stoul(local.substr(local.rfind(':') + 1), nullptr, 16)));
    }
  }
  return ports;
}

}  // namespace planaria
