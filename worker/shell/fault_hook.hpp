// The fault hook: how chaos reaches into a worker process. Off unless a socket path is given.
//
// The worker connects to a Unix-domain stream socket on which chaos listens; both sides speak lines of words, one
// space apart, ended by '\n', at most kMaxFaultLine bytes.
//
//   worker says                      when
//     hello <pid>                    first line
//     worker <id> <incarnation>      each time the coordinator has named it
//     phase <step> <phase>           it enters an armed point; it stands still until `go`, 5 s at most
//                                    In fetch it goes on: what it asked its peers for is under way
//     ok <command line>              the command took effect
//     error <reason>                 the command was refused
//
//   chaos says
//     arm <step> <phase>             announce this point, once. A point that is already passed is announced at once,
//                                    and the worker doesn't stand still for it. Not every step fetches state: with
//                                    fetch, the first fetching for this step or a later one is meant, or the first
//                                    commit of a worker that took part without fetching anything
//     go                             go on from an announced point
//     slow <fraction>                compute at this fraction of the speed, in (0, 1]; 1 ends it
//     link <peer|*> <delay_ms> <loss> <rate_mbit> <corrupt> <duplicate> <in|out|both>
//                                    frames of the data plane are delayed, lost, throttled, corrupted, duplicated with
//                                    these probabilities; rate 0 = unlimited; all zeros end it
//     block <peer|coordinator>       nothing passes any more, in either direction
//     unblock <peer|coordinator>
//     corrupt_next                   the next data frame that is sent is corrupted
//     nan <step>                     one gradient value of the step's next micro-batch becomes NaN, once
//     disk_full <seconds>            writing durable files fails with a full disk for this long
//     damage <flip|truncate|swap|old>  a keeper's: the parity of its newest snapshot is spoilt
//
// Phases: fetch forward backward reduce gate update commit. Peers are worker ids.
//
// Thread contract: every method may be called from any thread. Handlers run on the hook's own thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "common/clock.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"
#include "proto/control.hpp"
#include "storage/fragment_damage.hpp"

namespace planaria {

inline constexpr std::size_t kMaxFaultLine = 256;
inline constexpr Duration kMaxFaultPause = std::chrono::seconds(5);

namespace fault_command {

struct Arm {
  Step step;
  Phase phase = Phase::forward;
};
struct Go {};
struct Slow {
  double fraction = 1;
};
enum class Direction : std::uint8_t { in, out, both };
struct Link {
  std::optional<WorkerId> peer;  // absent: all
  double delay_ms = 0;
  double loss = 0;
  double rate_mbit = 0;
  double corrupt = 0;
  double duplicate = 0;
  Direction direction = Direction::both;
};
struct Block {
  std::optional<WorkerId> peer;  // absent: the coordinator
  bool blocked = true;
};
struct CorruptNext {};
struct Nan {
  Step step;
};
struct DiskFull {
  double seconds = 0;
};
struct Damage {
  FragmentDamage how = FragmentDamage::flip;
};

}  // namespace fault_command

using FaultCommand =
    std::variant<fault_command::Arm, fault_command::Go, fault_command::Slow, fault_command::Link, fault_command::Block,
                 fault_command::CorruptNext, fault_command::Nan, fault_command::DiskFull, fault_command::Damage>;

// One line without its end; invalid_argument says what was expected.
[[nodiscard]] Result<FaultCommand> parse_fault_command(std::string_view line);

class FaultHook {
 public:
  // Commands other than arm and go; an error is told to chaos.
  using Handler = std::function<Status(const FaultCommand&)>;

  // Connects and starts the hook's thread. `on_go` is called for each `go`.
  [[nodiscard]] static Result<std::unique_ptr<FaultHook>> connect(const std::string& socket_path, Handler handler,
                                                                  std::function<void()> on_go);
  ~FaultHook();
  FaultHook(const FaultHook&) = delete;
  FaultHook& operator=(const FaultHook&) = delete;

  void named(WorkerId worker, Incarnation incarnation);

  // The worker enters a phase. True: armed points up to this one (phases may be passed in no time) were announced; the
  // caller stands still until `go` or for kMaxFaultPause.
  [[nodiscard]] bool entered(Step step, Phase phase);

  // entered(), then waits for `go` itself. For threads that may stand still.
  void pass(Step step, Phase phase);

 private:
  struct State;
  explicit FaultHook(std::unique_ptr<State> state);
  void serve();
  void handle_line(std::string_view line);

  std::unique_ptr<State> state_;
};

}  // namespace planaria
