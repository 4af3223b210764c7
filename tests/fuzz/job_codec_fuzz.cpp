// A job record from a peer may hold anything; one that decodes is canonical, and checking it never fails hard.
#include <cstdint>
#include <cstdlib>
#include <span>

#include "common/codec.hpp"
#include "proto/job_spec.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace planaria;
  const std::span<const std::uint8_t> bytes(data, size);
  const auto job = decode<JobSpec>(bytes);
  if (!job) return 0;
  const ByteVector again = encode(*job);
  if (again != ByteVector(bytes.begin(), bytes.end())) std::abort();
  if (validate(*job)) static_cast<void>(job_hash(*job));
  return 0;
}
