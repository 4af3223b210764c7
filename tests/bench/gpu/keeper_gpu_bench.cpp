// Speed at which a GPU's state gets into a keeper's memory, hashed tile by tile: the hash alone, the copy alone, both
// at once, and the whole link, into memory that is page-locked and into memory that isn't.
//   keeper_gpu_bench [MIB [ROUNDS]]    default: 4064 MiB, the state of GPT-2 355M, and 10 rounds
// Each line: the median round's GB/s and milliseconds.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>

#include "common/shared_memory.hpp"
#include "kernels/cuda/cuda_device.hpp"
#include "tests/bench/keeper_link.hpp"
#include "worker/keeper/tile_hashes.hpp"

namespace planaria {
namespace {

double seconds_of(const std::function<void()>& work) {
  const auto began = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
}

class Bench {
 public:
  Bench(std::uint64_t bytes, int rounds, std::shared_ptr<Device> device)
      : state_(bytes), rounds_(rounds), device_(std::move(device)) {}

  Status run() {
    PLANARIA_ASSIGN(DeviceBuffer buffer, device_->allocate(state_.bytes()));
    const auto values = std::make_shared<DeviceBuffer>(std::move(buffer));
    PLANARIA_TRY(device_->synchronize());
    slices_ = state_.slices(static_cast<const std::byte*>(values->data()), values);
    PLANARIA_ASSIGN(const SharedMemory memory, SharedMemory::create(state_.bytes()));
    fmt::print("{} MiB in {} tiles from {}, {} hashing threads, {} rounds\n", state_.bytes() >> 20, state_.tiles,
               device_->name(), hashing_threads(), rounds_);
    PLANARIA_TRY(hash_and_copy(memory.bytes(), "pageable"));
    for (const std::size_t threads : {std::size_t{1}, hashing_threads()}) {
      tell(fmt::format("hash alone, {} threads", threads), [&] {
        TileHashes hashes(memory.bytes(), tile_bytes_, threads);
        hashes.arrived(state_.bytes());
        (void)hashes.take();
      });
    }
    Result<std::shared_ptr<void>> lock = std::shared_ptr<void>();
    const double locking = seconds_of([&] { lock = device_->lock_host(memory.bytes()); });
    if (!lock) return lock.error();
    PLANARIA_TRY(hash_and_copy(memory.bytes(), "page-locked"));
    const double unlocking = seconds_of([&] { lock = std::shared_ptr<void>(); });
    fmt::print("{:<40} {:8.0f} ms, letting go {:.0f} ms\n", "page-locking", 1e3 * locking, 1e3 * unlocking);
    return whole_link(values);
  }

 private:
  Status hash_and_copy(std::span<std::byte> memory, const char* kind) {
    std::vector<HostRead> reads;
    std::byte* target = memory.data();
    for (const ConstSlice& slice : slices_) {
      reads.push_back({target, slice.bytes.data(), slice.bytes.size()});
      target += slice.bytes.size();
    }
    Status status = ok_status();
    tell(fmt::format("copy alone, {}", kind), [&] {
      if (status) status = device_->read(reads);
    });
    tell(fmt::format("copy and hash, {}", kind), [&] {
      TileHashes hashes(memory, tile_bytes_, hashing_threads());
      if (status) status = device_->read(reads, [&](std::size_t bytes) { hashes.arrived(bytes); });
      if (status) (void)hashes.take();
    });
    return status;
  }

  Status whole_link(const std::shared_ptr<DeviceBuffer>& values) {
    constexpr int kMostCopies = 200;
    KeeperLink link(state_, static_cast<const std::byte*>(values->data()), values, device_);
    const double first = seconds_of([&] { link.copy(); });
    // The two memories that copies alternate between are locked meanwhile.
    for (int i = 0; i < kMostCopies && link.counters().locked_bytes < 2 * state_.bytes(); ++i) link.copy();
    if (link.counters().locked_bytes < 2 * state_.bytes()) {
      return Error(ErrorCode::unsupported, "the keeper's memory wasn't locked");
    }
    fmt::print("{:<40} {:8.0f} ms\n", "to the keeper, first copy", 1e3 * first);
    tell("to the keeper", [&] { link.copy(); });
    return ok_status();
  }

  void tell(const std::string& what, const std::function<void()>& work) {
    std::vector<double> seconds;
    for (int i = 0; i < rounds_; ++i) seconds.push_back(seconds_of(work));
    std::ranges::nth_element(seconds, seconds.begin() + rounds_ / 2);
    const double median = seconds[static_cast<std::size_t>(rounds_ / 2)];
    fmt::print("{:<40} {:6.1f} GB/s {:8.1f} ms\n", what, static_cast<double>(state_.bytes()) / median / 1e9,
               1e3 * median);
  }

  const BenchState state_;
  const int rounds_;
  const std::shared_ptr<Device> device_;
  const std::vector<std::uint64_t> tile_bytes_ = state_.tile_bytes();
  std::vector<ConstSlice> slices_;
};

Status run(std::uint64_t mib, int rounds) {
  if (mib == 0 || rounds <= 0) return Error(ErrorCode::invalid_argument, "keeper_gpu_bench [MIB [ROUNDS]]");
  PLANARIA_ASSIGN(std::shared_ptr<Device> device, cuda::CudaDevice::create(0));
  return Bench(mib << 20, rounds, std::move(device)).run();
}

}  // namespace
}  // namespace planaria

int main(int argc, char** argv) {
  const auto done =
      planaria::run(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 4064, argc > 2 ? std::atoi(argv[2]) : 10);
  if (!done) fmt::print(stderr, "{}\n", done.error().describe());
  return done ? 0 : 1;
}
