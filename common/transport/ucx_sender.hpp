// The sending half of the UCX transport: connections, and the frames on their way out. Internal.
//
// Thread contract: the progress thread's.
#pragma once

#include <deque>
#include <list>
#include <unordered_map>

#include "common/transport/frame_auth.hpp"
#include "common/transport/inbox.hpp"
#include "common/transport/ucx_worker.hpp"

namespace planaria {

inline constexpr unsigned kFrameMessage = 1;
inline constexpr unsigned kProbeMessage = 2;

// Asks for its echo; unauthenticated, it carries a time and nothing else.
struct ProbeMessage {
  std::uint64_t job = 0;
  std::uint32_t from = 0;
  std::uint32_t to = 0;
  std::uint32_t is_reply = 0;
  std::uint32_t zero = 0;
  std::int64_t sent_ns = 0;
};

class UcxSender {
 public:
  // `on_broken` hears once of every connection that broke by itself.
  UcxSender(const UcxOptions& options, UcxWorker& worker, StatsBook& stats,
            std::function<void(PeerId, std::string)> on_broken);

  void connect(PeerId peer, const ByteVector& ucx_address);
  void disconnect(WorkerId peer);
  // Precondition: frame.payload_hash is set.
  void send(WorkerId to, OutgoingFrame frame, SendDone done);
  void probe(WorkerId peer, bool is_reply, std::int64_t sent_ns);

  // Ends the sends of `view` and earlier, those to come included.
  void fence(ViewNumber view);
  // Gives UCX what the windows allow and closes what broke. True when anything happened.
  bool advance();
  // What UCX has not taken ends with cancelled, and no send is accepted any more.
  void stop_accepting();
  [[nodiscard]] bool idle() const { return chunks_in_flight_ == 0; }
  void close_all();

 private:
  struct Operation;
  struct Connection;
  struct Chunk;

  void break_connection(Connection& connection, ErrorCode code, const std::string& why);
  void report(Operation& operation, Status status);
  void pass_time();
  bool advance(Connection& connection);
  bool start_chunk(Connection& connection, const std::shared_ptr<Operation>& operation);
  void chunk_done(std::unique_ptr<Chunk> chunk, ucs_status_t status);
  static void on_sent(void* request, ucs_status_t status, void* argument);

  const UcxOptions& options_;
  UcxWorker& worker_;
  StatsBook& stats_;
  std::function<void(PeerId, std::string)> on_broken_;
  const SteadyClock clock_;
  bool accepting_ = true;
  std::optional<ViewNumber> fenced_;
  std::uint64_t last_session_ = 0;
  std::size_t chunks_in_flight_ = 0;
  std::size_t started_ = 0;  // operations that aren't reported
  double own_seconds_ = 0;   // that an operation has had the network for itself, had it always been under way
  Instant passed_{};         // when that was reckoned
  std::unordered_map<WorkerId, std::shared_ptr<Connection>> connections_;
};

}  // namespace planaria
