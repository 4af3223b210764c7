// The receiving half of the UCX transport: puts the chunks of each peer's connection back together into frames, checks
// them, and gives them to the Inbox in the order of sending. Internal.
//
// Thread contract: the progress thread's.
#pragma once

#include <atomic>
#include <map>
#include <unordered_map>

#include "common/transport/frame_auth.hpp"
#include "common/transport/inbox.hpp"
#include "common/transport/ucx_worker.hpp"

namespace planaria {

class UcxReceiver {
 public:
  UcxReceiver(const UcxOptions& options, UcxWorker& worker, StatsBook& stats, Inbox& inbox);
  ~UcxReceiver();

  Status listen();

  // Nothing more will come of what this peer has begun.
  void abandon(WorkerId peer);
  void abandon_all();
  // Lets go of what a fence ended in the Inbox.
  void sweep();
  [[nodiscard]] std::uint64_t foreign_frames() const { return foreign_frames_; }
  void count_foreign() { ++foreign_frames_; }
  [[nodiscard]] bool idle() const { return operations_ == 0; }

 private:
  struct Partial;
  struct Early;
  struct Session;
  struct Fetch;

  static ucs_status_t on_message(void* argument, const void* header, std::size_t header_bytes, void* data,
                                 std::size_t bytes, const ucp_am_recv_param_t* param);
  static void on_fetched(void* request, ucs_status_t status, std::size_t bytes, void* argument);

  [[nodiscard]] Result<WireHeader> parse(std::span<const std::byte> bytes) const;
  ucs_status_t receive(const WireHeader& header, void* data, std::size_t bytes, bool rendezvous);
  Session* session_of(const WireHeader& header);
  ucs_status_t accept(Session& session, const WireHeader& header, void* data, std::size_t bytes, bool rendezvous);
  ucs_status_t place(Session& session, const std::shared_ptr<Partial>& partial, std::uint64_t offset, void* data,
                     std::size_t bytes, bool rendezvous);
  ucs_status_t park(Session& session, const WireHeader& header, void* data, std::size_t bytes, bool rendezvous);
  void release(Early& early);
  void unpark(Session& session);
  void settle(const std::shared_ptr<Partial>& partial, std::size_t bytes, ucs_status_t status);
  void end_partial(const std::shared_ptr<Partial>& partial);
  void end_session(Session& session);

  const UcxOptions& options_;
  UcxWorker& worker_;
  StatsBook& stats_;
  Inbox& inbox_;
  std::atomic<std::uint64_t> foreign_frames_{0};
  std::size_t operations_ = 0;
  std::unordered_map<WorkerId, std::shared_ptr<Session>> sessions_;
};

}  // namespace planaria
