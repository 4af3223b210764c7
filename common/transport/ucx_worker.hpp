// A UCX context with one worker, configured for the data plane, and the endpoints made on it. Internal to the UCX
// transport.
//
// Thread contract: used by one thread at a time.
#pragma once

#include <ucp/api/ucp.h>

#include <functional>
#include <memory>
#include <vector>

#include "common/transport/ucx_transport.hpp"

namespace planaria {

// One UCX endpoint. UCX may call back into it until its close has finished; UcxWorker keeps it alive that long.
struct UcxEndpoint {
  ucp_ep_h handle = nullptr;
  std::function<void(ucs_status_t)> on_error;
  std::size_t bytes_in_flight = 0;
};

class UcxWorker {
 public:
  static Result<std::unique_ptr<UcxWorker>> create(const UcxOptions& options);
  ~UcxWorker();
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;

  [[nodiscard]] ucp_worker_h handle() const { return worker_; }
  [[nodiscard]] int event_fd() const { return event_fd_; }
  [[nodiscard]] const ByteVector& address() const { return address_; }

  // Receives active messages of this id whole.
  Status on_message(unsigned id, ucp_am_recv_callback_t callback, void* argument);

  [[nodiscard]] Result<std::shared_ptr<UcxEndpoint>> open(const ByteVector& address,
                                                          std::function<void(ucs_status_t)> on_error);
  // By force; unfinished requests of the endpoint complete with an error during later progress.
  void close(std::shared_ptr<UcxEndpoint> endpoint);
  [[nodiscard]] bool closing() const { return !closing_.empty(); }

  // True when anything happened.
  bool progress();
  // True when the event descriptor will become readable on the next event; false: there is one already.
  [[nodiscard]] bool arm();

 private:
  UcxWorker() = default;

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int event_fd_ = -1;
  ByteVector address_;
  std::vector<std::pair<ucs_status_ptr_t, std::shared_ptr<UcxEndpoint>>> closing_;
};

[[nodiscard]] Error ucx_error(ErrorCode code, const char* what, ucs_status_t status);

}  // namespace planaria
