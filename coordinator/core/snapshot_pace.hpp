// How often snapshots are made, so that waiting for them takes no more than a part of the time
// (snapshot.max_overhead).
//
// What the gates of workers wait for keepers alone is measured over windows of a view. Where it is too much in two in a
// row, the interval of snapshots grows by the least power of two that makes it little enough, since waits are rarer
// then by as much. It is halved again where that promises less than half of the bound for several windows in a row;
// each growth makes those more, so that an interval at the border isn't passed to and fro. What a view doesn't take up
// is proposed again later and later. Contention for processors shows in no wait, and isn't counted; in views with
// relays the words of a whole group come late with its keeper's, and waits seem shorter than they are.
//
// Thread contract: one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "common/clock.hpp"
#include "common/ids.hpp"

namespace planaria {

struct SnapshotPaceOptions {
  std::uint64_t least_steps = 1;  // the job's interval: it never becomes less; 0: no snapshots
  std::uint64_t saved_every = 0;  // each so many steps one must be made; 0: whenever
  double max_overhead = 0;        // of the time; 0: no bound
  Duration heartbeat{};           // how often figures come
};

class SnapshotPace {
 public:
  struct Change {
    std::uint64_t every_steps = 1;
    std::string reason;
  };

  explicit SnapshotPace(SnapshotPaceOptions options) : options_(options) {}

  // One that a view had, if the job's options would still have it, else the job's.
  [[nodiscard]] std::uint64_t admitted(std::uint64_t every_steps) const;

  // A view with snapshots each so many steps begins, 0: with none. What was measured before says nothing about it.
  void view_committed(std::uint64_t every_steps, Instant now);
  void step_committed() { ++steps_; }
  // The gates of a member have waited so long for keepers alone, in all.
  void member_waited(WorkerId member, Duration waited);

  // When another interval is due: which. To be asked now and then.
  [[nodiscard]] std::optional<Change> look(Instant now);

  // The part of the time that waiting took in the last whole window; none: not measured in this view.
  [[nodiscard]] std::optional<double> overhead() const { return overhead_; }

 private:
  [[nodiscard]] bool allows(std::uint64_t every_steps) const;
  [[nodiscard]] std::uint64_t grown() const;
  void begin_window(Instant now);

  const SnapshotPaceOptions options_;
  std::uint64_t every_steps_ = 0;
  std::uint64_t proposed_ = 0;  // last, until a view is committed; 0: none
  std::uint32_t growths_ = 0;
  std::uint32_t refusals_ = 0;
  std::uint32_t windows_above_ = 0;  // the bound, in a row
  std::uint32_t windows_below_ = 0;
  std::optional<double> overhead_;

  // The window.
  Instant began_{};
  std::uint64_t steps_ = 0;
  struct Waited {
    Duration before{}, by_now{};
  };
  std::map<WorkerId, Waited> waited_;
};

}  // namespace planaria
