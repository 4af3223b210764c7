#include "worker/trainer/host_staging.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <utility>

namespace planaria {

// Pieces of page-locked memory by their sizes, which are powers of two: the system takes milliseconds to lock pages.
class HostStaging::Room : public std::enable_shared_from_this<Room> {
 public:
  explicit Room(std::shared_ptr<Device> device) : device_(std::move(device)) {}

  Result<std::shared_ptr<std::byte>> take(std::size_t bytes) {
    const std::size_t size = std::bit_ceil(std::max(bytes, kSmallest));
    std::shared_ptr<std::byte> piece;
    std::vector<Idle> forgotten;  // the system has it back before it is asked for more
    {
      const std::scoped_lock lock(mutex_);
      ++takes_;
      auto& idle = idle_[size];
      if (idle.empty()) {
        forgotten = forget();
      } else {
        piece = std::move(idle.back().piece);
        idle.pop_back();
      }
    }
    forgotten.clear();
    if (piece == nullptr) {
      auto locked = device_->allocate_host(size);
      if (!locked && locked.error().code() != ErrorCode::exhausted) return locked.error();
      piece = locked ? std::move(*locked) : pageable(size);
      if (piece == nullptr) return locked.error();
      const std::scoped_lock lock(mutex_);
      bytes_ += size;
    }
    std::byte* const begin = piece.get();
    return std::shared_ptr<std::byte>(begin, [room = shared_from_this(), piece = std::move(piece), size](std::byte*) {
      const std::scoped_lock lock(room->mutex_);
      room->idle_[size].push_back({piece, room->takes_});
    });
  }

  std::size_t bytes() const {
    const std::scoped_lock lock(mutex_);
    return bytes_;
  }

 private:
  struct Idle {
    std::shared_ptr<std::byte> piece;
    std::uint64_t since = 0;  // of takes_
  };

  // Under the mutex: what hasn't been used for long, as after a view in which other sizes were sent.
  std::vector<Idle> forget() {
    std::vector<Idle> forgotten;
    for (auto& [size, idle] : idle_) {
      const auto used =
          std::ranges::find_if(idle, [&](const Idle& i) { return takes_ - i.since < kTakesUntilForgotten; });
      bytes_ -= size * static_cast<std::size_t>(used - idle.begin());
      std::move(idle.begin(), used, std::back_inserter(forgotten));
      idle.erase(idle.begin(), used);
    }
    return forgotten;
  }

  static std::shared_ptr<std::byte> pageable(std::size_t size) {
    return {static_cast<std::byte*>(std::malloc(size)), [](std::byte* piece) { std::free(piece); }};
  }

  static constexpr std::size_t kSmallest = std::size_t{64} << 10;
  static constexpr std::uint64_t kTakesUntilForgotten = 4096;  // more than a step's

  const std::shared_ptr<Device> device_;  // outlives the pieces
  mutable std::mutex mutex_;
  std::map<std::size_t, std::vector<Idle>> idle_;  // the longest idle first; the shortest is taken
  std::size_t bytes_ = 0;
  std::uint64_t takes_ = 0;
};

HostStaging::HostStaging(std::shared_ptr<Device> device)
    : device_(std::move(device)), room_(std::make_shared<Room>(device_)) {}

Result<std::vector<ConstSlice>> HostStaging::readable(std::vector<ConstSlice> values) const {
  if (device_->host_accessible() || values.empty()) return values;
  std::size_t bytes = 0;
  for (const ConstSlice& slice : values) bytes += slice.bytes.size();
  PLANARIA_ASSIGN(std::shared_ptr<std::byte> copy, room_->take(bytes));
  std::vector<HostRead> reads;
  reads.reserve(values.size());
  std::byte* to = copy.get();
  for (const ConstSlice& slice : values) {
    reads.push_back({to, slice.bytes.data(), slice.bytes.size()});
    to += slice.bytes.size();
  }
  PLANARIA_TRY(device_->read(reads));
  return std::vector<ConstSlice>{{std::span<const std::byte>(copy.get(), bytes), copy}};
}

std::size_t HostStaging::bytes() const {
  return room_->bytes();
}

Result<std::span<const float>> HostLook::at(const float* vector, ElementRange elements) {
  const float* const begin = vector + elements.begin;
  if (device_->host_accessible()) return std::span(begin, elements.size());
  copy_.resize(elements.size());
  const HostRead read{copy_.data(), begin, elements.size() * sizeof(float)};
  PLANARIA_TRY(device_->read(std::span(&read, 1)));
  return std::span<const float>(copy_);
}

}  // namespace planaria
