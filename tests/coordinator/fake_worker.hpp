// The worker's end of the control port, for tests: a bridge actor in an actor system of its own, without a worker.
//
// Thread contract: one thread calls; the actor system's threads fill the mailbox.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "common/codec.hpp"
#include "proto/control.hpp"

namespace planaria {

struct FakeWorkerTls {
  std::string certificate, key, authority;
};

class FakeWorker {
 public:
  explicit FakeWorker(std::uint16_t port, const FakeWorkerTls& tls = {});
  ~FakeWorker();
  FakeWorker(const FakeWorker&) = delete;
  FakeWorker& operator=(const FakeWorker&) = delete;

  [[nodiscard]] bool connected() const;
  void send(const WorkerMessage& message);
  void send_bytes(ByteVector bytes);
  // Well-formed CAF messages that are not of the contract, system messages among them.
  void send_nonsense();

  // The next message, or nothing when none comes in time or the coordinator is gone.
  std::optional<CoordinatorEnvelope> receive(std::chrono::milliseconds timeout = std::chrono::seconds(10));

  // The next message of this kind; others are dropped.
  template <class Message>
  std::optional<Message> await() {
    while (auto envelope = receive()) {
      if (auto* message = std::get_if<Message>(&envelope->message)) return std::move(*message);
    }
    return std::nullopt;
  }

  WorkerId worker;  // put into the envelopes that send() makes
  Incarnation incarnation;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace planaria
