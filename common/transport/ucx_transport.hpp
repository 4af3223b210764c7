// The transport between real processes, over UCX (TCP, and RDMA where a device is named).
//
// One progress thread owns the UCX worker and all state; every call is a command to it. The thread sleeps on the
// worker's event descriptor: several workers may share a core, so it spins for a few microseconds at most, and only
// while traffic is dense enough for the spin to pay.
//
// Frames larger than a chunk are cut into chunks, which go over all endpoints to the peer in turn, a bounded number of
// bytes at a time; what has not been given to UCX yet can be cancelled at once. The payload of a large chunk is moved
// straight into the receiver's buffer (rendezvous).
//
// Thread contract: as common/transport/transport.hpp.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "common/transport/frame_auth.hpp"
#include "common/transport/inbox.hpp"
#include "common/transport/transport.hpp"

namespace planaria {

struct UcxOptions {
  std::uint64_t job = 0;
  PeerId self;
  std::string transports = "tcp,self";           // UCX_TLS; each must report the failure of its peer
  std::string devices = "lo";                    // UCX_NET_DEVICES; UCX would open a lane on every interface otherwise
  std::optional<SessionKey> key = std::nullopt;  // authenticate frames; the same at all peers
  unsigned endpoints_per_peer = 1;               // large frames are striped over them
  std::size_t chunk_bytes = std::size_t{4} << 20;
  std::size_t rendezvous_bytes = std::size_t{64} << 10;  // chunks from here on are fetched into their place
  std::size_t window_bytes = std::size_t{16} << 20;      // per endpoint: given to UCX and not completed
  WaitingBounds waiting = {};
  Duration max_spin = std::chrono::microseconds(20);
  Duration drain = std::chrono::milliseconds(200);  // what stop() gives taken sends to leave
};

// unavailable or io: UCX, the device or the sockets can't be had.
[[nodiscard]] Result<std::unique_ptr<Transport>> make_ucx_transport(UcxOptions options);

}  // namespace planaria
