// What the coordinator logs, synced before anything that depends on it is announced (docs/PROTOCOL.md, R22).
//
// Replaying the records in order gives back every decision; leases, holdings and progress are collected anew.
//
// Thread contract: plain values, pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/codec.hpp"
#include "common/hash.hpp"
#include "common/ids.hpp"
#include "proto/layout.hpp"

namespace planaria {

namespace log_record {

struct GenerationStarted {
  Generation generation;
  template <class V>
  void fields(V& v) {
    v(generation);
  }
};
struct JobRecorded {  // once, with the first worker: its numeric class is the job's
  Hash128 job;
  std::string numeric_class;
  Hash128 probe;
  ByteVector kernels;  // Register::kernels of that worker
  template <class V>
  void fields(V& v) {
    v(job, numeric_class, probe, kernels);
  }
};
struct WorkerAccepted {
  WorkerId worker;
  Incarnation incarnation;
  std::string host;
  Role role = Role::worker;
  template <class V>
  void fields(V& v) {
    v(worker, incarnation, host, role);
  }
};
struct DrainAccepted {
  WorkerId worker;
  Incarnation incarnation;
  std::string reason;
  template <class V>
  void fields(V& v) {
    v(worker, incarnation, reason);
  }
};
struct WorkerReleased {
  WorkerId worker;
  Incarnation incarnation;
  template <class V>
  void fields(V& v) {
    v(worker, incarnation);
  }
};
// What members' disagreement says of their work; it holds until the next view is committed.
struct Suspicion {
  bool compare_state = false;   // members report hashes
  bool discard_work = false;    // the step's partial sums can't be trusted
  bool distrust_state = false;  // nor state that is newer than what all members had alike
  void add(const Suspicion& other) {
    compare_state = compare_state || other.compare_state;
    discard_work = discard_work || other.discard_work;
    distrust_state = distrust_state || other.distrust_state;
  }
  auto operator<=>(const Suspicion&) const = default;
  template <class V>
  void fields(V& v) {
    v(compare_state, discard_work, distrust_state);
  }
};
struct Prepared {
  ViewNumber view;
  std::vector<WorkerId> excluded;
  std::string reason;
  Suspicion suspicion;
  template <class V>
  void fields(V& v) {
    v(view, excluded, reason, suspicion);
  }
};
struct Committed {
  ViewRecord record;
  template <class V>
  void fields(V& v) {
    v(record);
  }
};
struct NumericDecision {  // about a nonfinite gradient
  Step step;
  std::uint32_t attempt = 0;
  std::vector<SlotRange> nonfinite;       // slots; known from attempt 1 on
  std::vector<StageAssignment> computed;  // who computed what in this attempt
  std::string decision;
  std::vector<WorkerId> expelled;  // those that computed wrongly
  template <class V>
  void fields(V& v) {
    v(step, attempt, nonfinite, computed, decision, expelled);
  }
};
struct MemberHash {
  WorkerId worker;
  Hash128 hash;
  template <class V>
  void fields(V& v) {
    v(worker, hash);
  }
};
struct Disagreement {  // members hold what should be alike, and isn't
  Step step;
  bool gradient = false;  // else the state after the step
  std::uint32_t block = 0;
  std::uint32_t round = 0;  // the step's attempt, or the state's lineage: the same disagreement may be reported twice
  std::vector<MemberHash> hashes;
  std::string decision;
  std::vector<WorkerId> expelled;
  template <class V>
  void fields(V& v) {
    v(step, gradient, block, round, hashes, decision, expelled);
  }
};
struct StepLogged {  // the first report of a commit; sequences used = logged steps · M · B
  ViewNumber view;
  Step step;
  double loss = 0;
  template <class V>
  void fields(V& v) {
    v(view, step, loss);
  }
};
struct WaitingStarted {
  std::string reason;
  template <class V>
  void fields(V& v) {
    v(reason);
  }
};
struct Finished {
  Step step;
  Hash128 weights;
  bool success = true;
  std::string reason;
  std::optional<double> loss{}, validation_loss{};  // of a success, where a member knew
  template <class V>
  void fields(V& v) {
    v(step, weights, success, reason, loss, validation_loss);
  }
};
struct FaultFired {          // one that was injected on purpose, told by who injected it
  std::uint32_t number = 0;  // in its scenario; told again after a lost answer, it is logged once
  std::string kind;
  std::optional<Step> step;
  std::string phase;                    // or empty
  std::optional<std::uint32_t> worker;  // the scenario's number: order of start
  template <class V>
  void fields(V& v) {
    v(number, kind, step, phase, worker);
  }
};

}  // namespace log_record

using LogRecord =
    std::variant<log_record::GenerationStarted, log_record::JobRecorded, log_record::WorkerAccepted,
                 log_record::DrainAccepted, log_record::WorkerReleased, log_record::Prepared, log_record::Committed,
                 log_record::NumericDecision, log_record::StepLogged, log_record::WaitingStarted, log_record::Finished,
                 log_record::FaultFired, log_record::Disagreement>;

// "fault: kill worker 1 at step 5, backward".
[[nodiscard]] std::string describe(const log_record::FaultFired& fault);

// A short name for logs and event lists ("view committed").
[[nodiscard]] const char* record_name(const LogRecord& record);

}  // namespace planaria
