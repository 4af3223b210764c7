// Keeps UCX 1.13 alive when a peer dies while they connect.
//
// Two ends of that version's TCP connections end the process. What waited for a connection is sent as soon as the
// peer's answer is read; when that send fails, for the peer was gone again by then, UCX fails the endpoint from inside
// the sending ("wireup_ep.c: Assertion `wireup_ep->pending_count == 0' failed"). And when a peer's request was read,
// and the own connection to it, begun before, is refused, the reply is in the way ("ucp_request.c: Assertion … got REP
// message"). For a thread that holds this guard
// - a send succeeds on a connection that its peer has closed: the bytes are lost, as bytes on their way to a dead peer
//   are, and reading from the connection, which UCX does next, tells of the end where UCX can bear it;
// - beginning a connection waits some milliseconds for a refusal, which UCX then learns before there is an endpoint.
//
// Thread contract: the guard is of the thread that makes it.
#pragma once

namespace planaria {

class GuardedSockets {
 public:
  GuardedSockets();
  ~GuardedSockets();
  GuardedSockets(const GuardedSockets&) = delete;
  GuardedSockets& operator=(const GuardedSockets&) = delete;
};

}  // namespace planaria
