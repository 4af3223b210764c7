// A job file may hold anything; one that is accepted is written and read again as the same job.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "common/codec.hpp"
#include "proto/job_config.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria;
  const auto job = parse_job(std::string_view(reinterpret_cast<const char*>(data), size), "fuzz.toml");
  if (!job) return 0;
  auto again = parse_job(job_to_toml(*job), "again.toml");
  if (!again) std::abort();
  again->security.join_token = job->security.join_token;  // never written
  if (encode(*again) != encode(*job)) std::abort();
  return 0;
}
