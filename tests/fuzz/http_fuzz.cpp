// What a browser or anyone else may ask of the coordinator: the first line is the target, the rest the body.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "coordinator/http/routes.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto line = text.substr(0, text.find('\n'));
  HttpControls controls;
  controls.events = [](std::uint64_t, std::size_t limit, bool) -> Result<LogPage> {
    if (limit > EventLog::kMaxPage) std::abort();
    return LogPage{};
  };
  controls.drain = [](WorkerId, const std::string&) { return ok_status(); };
  controls.stop = [](const std::string&) { return ok_status(); };
  controls.fault = [](const log_record::FaultFired& fault) {
    if (fault.kind.empty()) std::abort();
    return ok_status();
  };
  HttpRequest request{.method = "GET", .target = std::string(line), .host = "localhost"};
  static const StatusSnapshot snapshot;
  static_cast<void>(route(request, snapshot, controls, {}));
  request.method = "POST";
  request.content_type = "application/json";
  request.body = text.substr(std::min(text.size(), line.size() + 1));
  static_cast<void>(route(request, snapshot, controls, {}));
  return 0;
}
