#include "common/transport/ucx_worker.hpp"

#include <ucs/debug/log_def.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <filesystem>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

#include "common/log.hpp"
#include "common/transport/ucx_guard.hpp"

namespace planaria {
namespace {

// Connecting must not block the progress thread, and 8 KiB at a time, UCX's own choice, is slow. UCX 1.13 knows the TCP
// transport's own settings by these names only, without their prefix.
constexpr std::pair<const char*, const char*> kFixedSettings[] = {
    {"CONN_NB", "y"},
    {"TX_SEG_SIZE", "64k"},
    {"KEEPALIVE_INTERVAL", "1s"},
};

// UCX prints to standard output, where it would end up amid a command's own. What it calls an error is a peer's end in
// most cases, and the transport reports those itself.
ucs_log_func_rc_t forward_log(const char*, unsigned, const char*, ucs_log_level_t level,
                              const ucs_log_component_config_t*, const char* format, va_list arguments) {
  if (level > UCS_LOG_LEVEL_WARN) return UCS_LOG_FUNC_RC_STOP;
  static const Log log("ucx");
  char text[512];
  std::vsnprintf(text, sizeof text, format, arguments);
  if (level == UCS_LOG_LEVEL_FATAL) {
    log.error(text);
  } else {
    log.info(text);
  }
  return UCS_LOG_FUNC_RC_STOP;
}

// UCX warns of network devices that aren't there and goes on without them: nobody would be reached.
Status check_devices(const std::string& devices) {
  std::error_code none;
  std::vector<std::string> here;
  for (const char* folder : {"/sys/class/net", "/sys/class/infiniband"}) {
    for (const auto& entry : std::filesystem::directory_iterator(folder, none)) here.push_back(entry.path().filename());
  }
  std::istringstream names(devices);
  bool found = devices == "all" && !here.empty();
  for (std::string name; std::getline(names, name, ',');) {
    found = found || std::ranges::find(here, name.substr(0, name.find(':'))) != here.end();
  }
  if (found) return ok_status();
  std::string list;
  for (const std::string& name : here) list += (list.empty() ? "" : ", ") + name;
  return Error(ErrorCode::invalid_argument,
               "no network device of \"" + devices + "\" is here: " +
                   (list.empty() ? "/sys/class/net is empty or not there" : "this machine has " + list));
}

void forward_error(void* argument, ucp_ep_h, ucs_status_t status) {
  auto* endpoint = static_cast<UcxEndpoint*>(argument);
  if (endpoint->on_error) endpoint->on_error(status);
}

}  // namespace

Error ucx_error(ErrorCode code, const char* what, ucs_status_t status) {
  return {code, std::string(what) + ": " + ucs_status_string(status)};
}

Result<std::unique_ptr<UcxWorker>> UcxWorker::create(const UcxOptions& options) {
  static std::once_flag once;
  std::call_once(once, [] { ucs_log_push_handler(forward_log); });
  PLANARIA_TRY(check_devices(options.devices));
  std::unique_ptr<UcxWorker> made(new UcxWorker());
  ucp_config_t* config = nullptr;
  ucs_status_t status = ucp_config_read(nullptr, nullptr, &config);
  if (status != UCS_OK) return ucx_error(ErrorCode::unavailable, "reading UCX's configuration", status);
  const std::unique_ptr<ucp_config_t, decltype(&ucp_config_release)> config_owner(config, ucp_config_release);
  std::vector<std::pair<const char*, const char*>> settings(std::begin(kFixedSettings), std::end(kFixedSettings));
  settings.emplace_back("TLS", options.transports.c_str());
  const std::string rendezvous = std::to_string(options.rendezvous_bytes);
  settings.emplace_back("RNDV_THRESH", rendezvous.c_str());
  settings.emplace_back("NET_DEVICES", options.devices.c_str());
  for (const auto& [name, value] : settings) {
    status = ucp_config_modify(config, name, value);
    if (status != UCS_OK) return ucx_error(ErrorCode::unavailable, name, status);
  }

  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  status = ucp_init(&params, config, &made->context_);
  if (status != UCS_OK) return ucx_error(ErrorCode::unavailable, "starting UCX", status);

  ucp_worker_params_t worker_params{};
  worker_params.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE;
  worker_params.thread_mode = UCS_THREAD_MODE_SERIALIZED;
  status = ucp_worker_create(made->context_, &worker_params, &made->worker_);
  if (status != UCS_OK) return ucx_error(ErrorCode::unavailable, "making a UCX worker", status);
  status = ucp_worker_get_efd(made->worker_, &made->event_fd_);
  if (status != UCS_OK) return ucx_error(ErrorCode::unavailable, "UCX's event descriptor", status);

  ucp_address_t* address = nullptr;
  std::size_t size = 0;
  status = ucp_worker_get_address(made->worker_, &address, &size);
  if (status != UCS_OK) return ucx_error(ErrorCode::unavailable, "UCX's address", status);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(address);
  made->address_.assign(bytes, bytes + size);
  ucp_worker_release_address(made->worker_, address);
  return made;
}

UcxWorker::~UcxWorker() {
  // UCX drops its endpoints' remaining requests here; nothing of it touches memory afterwards.
  if (worker_ != nullptr) ucp_worker_destroy(worker_);
  if (context_ != nullptr) ucp_cleanup(context_);
}

Status UcxWorker::on_message(unsigned id, ucp_am_recv_callback_t callback, void* argument) {
  ucp_am_handler_param_t param{};
  param.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_FLAGS | UCP_AM_HANDLER_PARAM_FIELD_CB |
                     UCP_AM_HANDLER_PARAM_FIELD_ARG;
  param.id = id;
  param.flags = UCP_AM_FLAG_WHOLE_MSG;
  param.cb = callback;
  param.arg = argument;
  const ucs_status_t status = ucp_worker_set_am_recv_handler(worker_, &param);
  if (status != UCS_OK) return ucx_error(ErrorCode::internal, "registering a message handler", status);
  return ok_status();
}

Result<std::shared_ptr<UcxEndpoint>> UcxWorker::open(const ByteVector& address,
                                                     std::function<void(ucs_status_t)> on_error) {
  auto endpoint = std::make_shared<UcxEndpoint>();
  endpoint->on_error = std::move(on_error);
  ucp_ep_params_t params{};
  params.field_mask =
      UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE | UCP_EP_PARAM_FIELD_ERR_HANDLER;
  params.address = reinterpret_cast<const ucp_address_t*>(address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  params.err_handler.cb = forward_error;
  params.err_handler.arg = endpoint.get();
  const UcxGuard guard;
  const ucs_status_t status = ucp_ep_create(worker_, &params, &endpoint->handle);
  if (status != UCS_OK) return ucx_error(ErrorCode::unavailable, "connecting", status);
  return endpoint;
}

void UcxWorker::close(std::shared_ptr<UcxEndpoint> endpoint) {
  endpoint->on_error = nullptr;
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  const ucs_status_ptr_t request = ucp_ep_close_nbx(endpoint->handle, &param);
  if (UCS_PTR_IS_PTR(request)) closing_.emplace_back(request, std::move(endpoint));
}

bool UcxWorker::progress() {
  bool active = false;
  const UcxGuard guard;
  while (ucp_worker_progress(worker_) != 0) active = true;
  std::erase_if(closing_, [](const auto& entry) {
    if (ucp_request_check_status(entry.first) == UCS_INPROGRESS) return false;
    ucp_request_free(entry.first);
    return true;
  });
  return active;
}

bool UcxWorker::arm() {
  return ucp_worker_arm(worker_) == UCS_OK;
}

}  // namespace planaria
