// Keeps UCX 1.13 alive when a peer dies just as it answers a connection.
//
// Its TCP transport sends what waited for a connection as soon as the peer's answer is read. When that send fails, for
// the peer was gone again by then, UCX fails the endpoint from inside the sending and ends the process: "wireup_ep.c:
// Assertion `wireup_ep->pending_count == 0' failed". A send of a thread that holds this guard therefore succeeds on a
// connection that its peer has closed: the bytes are lost, as bytes on their way to a dead peer are, and reading from
// the connection, which UCX does next, tells of the end where UCX can bear it.
//
// Thread contract: the guard is of the thread that makes it.
#pragma once

namespace planaria {

class LostSendsSucceed {
 public:
  LostSendsSucceed();
  ~LostSendsSucceed();
  LostSendsSucceed(const LostSendsSucceed&) = delete;
  LostSendsSucceed& operator=(const LostSendsSucceed&) = delete;
};

}  // namespace planaria
