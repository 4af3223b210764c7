// Keeps UCX 1.13 alive when a peer dies while they connect. Two ends of that version's TCP connections end the process:
//
// - What waited for a connection is sent as soon as the peer's answer is read. When that send fails, for the peer was
//   gone again by then, UCX fails the endpoint from inside the sending ("wireup_ep.c: Assertion
//   `wireup_ep->pending_count == 0' failed"). For a thread that holds this guard a send succeeds on a connection that
//   its peer has closed: the bytes are lost, as bytes on their way to a dead peer are, and reading from the connection,
//   which UCX does next, tells of the end where UCX can bear it.
// - The reply to a peer's request waits for the own connection to it. When that fails, UCX finds the reply among what
//   it drops, and ends ("ucp_request.c: Assertion … got REP message"); later versions drop a reply as they drop the
//   rest. Here, for every thread, it stays undropped: some hundred bytes are lost.
//
// Thread contract: the guard is of the thread that makes it.
#pragma once

namespace planaria {

class UcxGuard {
 public:
  UcxGuard();
  ~UcxGuard();
  UcxGuard(const UcxGuard&) = delete;
  UcxGuard& operator=(const UcxGuard&) = delete;
};

}  // namespace planaria
