#include "coordinator/core/snapshot_pace.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace planaria {
namespace {

constexpr int kHeartbeats = 20;                // of a window, at least
constexpr std::uint64_t kSnapshots = 4;        // likewise
constexpr std::uint32_t kWindowsToGrow = 2;    // doubled with each refusal
constexpr std::uint32_t kWindowsToShrink = 4;  // doubled with each growth
constexpr std::uint32_t kMostDoublings = 6;
constexpr std::uint64_t kMostOfLeast = 128;  // times the job's interval: what a lost host costs stays bounded

std::string each(std::uint64_t steps) {
  return steps == 1 ? "after each step" : fmt::format("each {} steps", steps);
}

}  // namespace

std::uint64_t SnapshotPace::admitted(std::uint64_t every_steps) const {
  if (options_.max_overhead <= 0 || options_.least_steps == 0) return options_.least_steps;
  std::uint64_t every = options_.least_steps;
  while (every < every_steps && allows(2 * every)) every *= 2;
  return every == every_steps ? every : options_.least_steps;
}

void SnapshotPace::view_committed(std::uint64_t every_steps, Instant now) {
  if (proposed_ != 0 && proposed_ != every_steps) ++refusals_;
  proposed_ = 0;
  every_steps_ = every_steps;
  windows_above_ = windows_below_ = 0;
  overhead_.reset();
  waited_.clear();
  begin_window(now);
}

void SnapshotPace::begin_window(Instant now) {
  began_ = now;
  steps_ = 0;
  for (auto& [member, waited] : waited_) waited.before = waited.by_now;
}

void SnapshotPace::member_waited(WorkerId member, Duration waited) {
  if (every_steps_ == 0) return;  // nothing is waited for
  const auto [known, is_new] = waited_.try_emplace(member, Waited{waited, waited});
  known->second.by_now = waited;
  if (waited < known->second.before) known->second.before = waited;  // it began anew
}

bool SnapshotPace::allows(std::uint64_t every_steps) const {
  return every_steps <= kMostOfLeast * options_.least_steps &&
         (options_.saved_every == 0 || options_.saved_every % every_steps == 0);
}

// The least allowed interval that promises little enough, or the greatest one.
std::uint64_t SnapshotPace::grown() const {
  std::uint64_t every = every_steps_;
  const auto promised = [&] { return *overhead_ * double(every_steps_) / double(every); };
  while (promised() > options_.max_overhead && allows(2 * every)) every *= 2;
  return every;
}

std::optional<SnapshotPace::Change> SnapshotPace::look(Instant now) {
  if (options_.max_overhead <= 0 || every_steps_ == 0) return std::nullopt;
  if (now < began_ + kHeartbeats * options_.heartbeat || steps_ < kSnapshots * every_steps_) return std::nullopt;
  Duration longest{};
  for (const auto& [member, waited] : waited_) longest = std::max(longest, waited.by_now - waited.before);
  overhead_ = to_seconds(longest) / to_seconds(now - began_);
  begin_window(now);
  const bool above = *overhead_ > options_.max_overhead;
  const bool below = every_steps_ > options_.least_steps && 2 * *overhead_ < options_.max_overhead / 2;
  windows_above_ = above ? windows_above_ + 1 : 0;
  windows_below_ = below ? windows_below_ + 1 : 0;
  if (windows_above_ >= kWindowsToGrow << std::min(refusals_, kMostDoublings)) {
    windows_above_ = 0;
    const std::uint64_t every = grown();
    if (every == every_steps_) return std::nullopt;
    ++growths_;
    proposed_ = every;
    return Change{every, fmt::format("snapshots {} instead of {}: waiting for them took {:.2g} % of the time, more "
                                     "than snapshot.max_overhead = {:g} %",
                                     each(every), each(every_steps_), 100 * *overhead_, 100 * options_.max_overhead)};
  }
  if (windows_below_ >= kWindowsToShrink << std::min(growths_, kMostDoublings)) {
    windows_below_ = 0;
    return Change{every_steps_ / 2,
                  fmt::format("snapshots {} again instead of {}: waiting for them took {:.2g} % of the time",
                              each(every_steps_ / 2), each(every_steps_), 100 * *overhead_)};
  }
  return std::nullopt;
}

}  // namespace planaria
