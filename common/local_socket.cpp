#include "common/local_socket.hpp"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "common/file.hpp"

namespace planaria {
namespace {

constexpr std::chrono::milliseconds kScarce(50);  // until accept() is tried again without memory or files
constexpr int kBacklog = 16;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    return Error(ErrorCode::invalid_argument,
                 fmt::format("'{}' can't be a socket's path: it has {} characters, of at most {}", path, path.size(),
                             sizeof address.sun_path - 1));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<Descriptor> make_socket() {
  Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket.open()) return Error(ErrorCode::io, fmt::format("can't make a socket: {}", std::strerror(errno)));
  return socket;
}

Error over(int reason) {
  return {ErrorCode::unavailable,
          reason == 0 ? "the connection was closed" : fmt::format("the connection is over: {}", std::strerror(reason))};
}

// Room for one descriptor beside a message.
union Control {
  char bytes[CMSG_SPACE(sizeof(int))];
  cmsghdr align;
};

// Takes all that came, so that none is left open.
std::optional<Descriptor> handed_with(msghdr& header) {
  std::optional<Descriptor> handed;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    for (std::size_t at = 0; at + sizeof(int) <= part->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + at, sizeof fd);
      handed = Descriptor(fd);
    }
  }
  return handed;
}

// 0: nothing is there.
std::uint64_t inode_of(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

}  // namespace

Result<LocalSocket> LocalSocket::connect(const std::string& path) {
  PLANARIA_ASSIGN(const sockaddr_un address, address_of(path));
  PLANARIA_ASSIGN(Descriptor socket, make_socket());
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return Error(ErrorCode::unavailable, fmt::format("nobody answers at '{}': {}", path, std::strerror(errno)));
  }
  return LocalSocket(std::move(socket));
}

Status LocalSocket::send(std::span<const std::byte> message, const Descriptor* handed) {
  iovec part{const_cast<std::byte*>(message.data()), message.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  Control control{};
  if (handed != nullptr) {
    header.msg_control = control.bytes;
    header.msg_controllen = sizeof control.bytes;
    cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = handed->get();
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  }
  while (::sendmsg(socket_.get(), &header, MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return over(errno);
  }
  return ok_status();
}

Result<LocalMessage> LocalSocket::receive() {
  LocalMessage message;
  message.bytes.resize(kMaxLocalMessage);
  iovec part{message.bytes.data(), message.bytes.size()};
  msghdr header{};
  Control control{};
  ssize_t got = 0;
  do {
    header = {};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control.bytes;
    header.msg_controllen = sizeof control.bytes;
    got = ::recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return over(errno);
  message.handed = handed_with(header);
  if (got == 0) return over(0);
  if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return Error(ErrorCode::corrupt, "a message longer than any may be, or with more than one file");
  }
  message.bytes.resize(static_cast<std::size_t>(got));
  return message;
}

void LocalSocket::close() {
  ::shutdown(socket_.get(), SHUT_RDWR);
}

Result<LocalListener> LocalListener::listen(const std::string& path) {
  PLANARIA_ASSIGN(const sockaddr_un address, address_of(path));
  PLANARIA_ASSIGN(Descriptor socket, make_socket());
  if (LocalSocket::connect(path)) {
    return Error(ErrorCode::unavailable,
                 fmt::format("another process listens at '{}': end that one, or take another path", path));
  }
  ::unlink(path.c_str());
  // Linux gives the file the socket's own mode: it is closed to others from its first moment on.
  if (::fchmod(socket.get(), S_IRUSR | S_IWUSR) != 0 ||
      ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(socket.get(), kBacklog) != 0) {
    return file_error(errno, "listen at", path);
  }
  return LocalListener(std::move(socket), path, inode_of(path));
}

LocalListener::~LocalListener() {
  if (socket_.open() && inode_of(path_) == inode_) ::unlink(path_.c_str());
}

Result<LocalSocket> LocalListener::accept() {
  while (true) {
    Descriptor socket(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!socket.open()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
        std::this_thread::sleep_for(kScarce);
        continue;
      }
      return over(errno);
    }
    ucred caller{};
    socklen_t size = sizeof caller;
    const bool known = ::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &caller, &size) == 0;
    if (known && caller.uid == ::geteuid()) return LocalSocket(std::move(socket));
  }
}

void LocalListener::close() {
  ::shutdown(socket_.get(), SHUT_RDWR);
}

}  // namespace planaria
