// Messages and log records from anyone: the first byte says as what the rest is decoded. What decodes is canonical.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "common/codec.hpp"
#include "proto/control.hpp"
#include "proto/data_message.hpp"
#include "proto/log_record.hpp"

namespace {

template <class T>
void check(std::span<const std::uint8_t> bytes) {
  const auto value = planaria::decode<T>(bytes);
  if (value && !std::ranges::equal(planaria::encode(*value), bytes)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria;
  if (size == 0) return 0;
  const std::span<const std::uint8_t> bytes(data + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      check<WorkerEnvelope>(bytes);
      break;
    case 1:
      check<CoordinatorEnvelope>(bytes);
      break;
    case 2:
      check<LogRecord>(bytes);
      break;
    default:
      static_cast<void>(decode_data_head(std::as_bytes(bytes)));
      break;
  }
  return 0;
}
