// Connections between processes of one user on one machine, which keep messages apart and hand over open files: Unix
// sockets of type SOCK_SEQPACKET with SCM_RIGHTS, unix(7). A listener's file can be opened by its user alone, and each
// caller's user is looked at besides.
//
// Thread contract: one thread may send while another receives; close() may be called by any, and ends both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/descriptor.hpp"
#include "common/result.hpp"

namespace planaria {

inline constexpr std::size_t kMaxLocalMessage = 128U << 10;

struct LocalMessage {
  std::vector<std::byte> bytes;
  std::optional<Descriptor> handed;
};

class LocalSocket {
 public:
  // unavailable: nobody listens there.
  [[nodiscard]] static Result<LocalSocket> connect(const std::string& path);

  // Waits while the other end is behind. unavailable: the connection is over. Precondition: 1 to kMaxLocalMessage
  // bytes.
  [[nodiscard]] Status send(std::span<const std::byte> message, const Descriptor* handed = nullptr);
  // Waits for one. unavailable: the connection is over; corrupt: the message is longer than any may be.
  [[nodiscard]] Result<LocalMessage> receive();
  void close();

 private:
  friend class LocalListener;
  explicit LocalSocket(Descriptor socket) : socket_(std::move(socket)) {}

  Descriptor socket_;
};

class LocalListener {
 public:
  // Takes the place of a file that was left there. unavailable: somebody listens there; invalid_argument: the path is
  // too long; io: it can't be made.
  [[nodiscard]] static Result<LocalListener> listen(const std::string& path);
  ~LocalListener();  // removes the file
  LocalListener(LocalListener&&) noexcept = default;
  LocalListener& operator=(LocalListener&&) noexcept = default;

  // Waits for a caller of the same user; others are turned away. unavailable: closed.
  [[nodiscard]] Result<LocalSocket> accept();
  void close();

 private:
  LocalListener(Descriptor socket, std::string path, std::uint64_t inode)
      : socket_(std::move(socket)), path_(std::move(path)), inode_(inode) {}

  Descriptor socket_;
  std::string path_;
  std::uint64_t inode_ = 0;  // another one at the path is a successor's
};

}  // namespace planaria
