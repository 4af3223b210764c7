// A plain TCP client for tests that send what no client should.
//
// Thread contract: one thread.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>

namespace planaria {

class RawSocket {
 public:
  explicit RawSocket(std::uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      throw std::runtime_error("can't connect to port " + std::to_string(port));
    }
  }
  ~RawSocket() { ::close(socket_); }
  RawSocket(const RawSocket&) = delete;
  RawSocket& operator=(const RawSocket&) = delete;

  // What the peer doesn't take, because it closed, is lost.
  void send(std::string_view bytes) const {
    while (!bytes.empty()) {
      const auto sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      bytes.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
  void send_random(std::uint32_t seed, std::size_t size) const {
    std::mt19937 generator(seed);
    std::string bytes(size, '\0');
    for (auto& byte : bytes) byte = static_cast<char>(generator());
    send(bytes);
  }

  // One read; empty at the end of the stream, on a reset and after the timeout.
  std::string receive(int timeout_ms = 10'000) const {
    pollfd ready{socket_, POLLIN, 0};
    if (::poll(&ready, 1, timeout_ms) <= 0) return {};
    std::array<char, 65536> buffer{};
    const auto received = ::recv(socket_, buffer.data(), buffer.size(), 0);
    return received > 0 ? std::string(buffer.data(), static_cast<std::size_t>(received)) : std::string();
  }
  // Everything until the peer closes.
  std::string receive_all() const {
    std::string all;
    for (auto part = receive(); !part.empty(); part = receive()) all += part;
    return all;
  }
  // Reads until `end` has come or the stream is over.
  std::string receive_until(std::string_view end) const {
    std::string all;
    while (all.find(end) == std::string::npos) {
      const auto part = receive();
      if (part.empty()) break;
      all += part;
    }
    return all;
  }
  bool closed_by_peer(int timeout_ms = 10'000) const {
    pollfd ready{socket_, POLLIN, 0};
    std::array<char, 4096> buffer{};
    while (::poll(&ready, 1, timeout_ms) > 0) {
      if (::recv(socket_, buffer.data(), buffer.size(), 0) <= 0) return true;
    }
    return false;
  }

 private:
  int socket_;
};

}  // namespace planaria
