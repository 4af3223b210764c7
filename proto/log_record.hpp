// What the coordinator logs, synced before anything that depends on it is announced (protocol-rules 22).
//
// Replaying the records in order gives back every decision; leases, holdings and progress are collected anew.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

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
  template <class V>
  void fields(V& v) {
    v(job, numeric_class, probe);
  }
};
struct WorkerAccepted {
  WorkerId worker;
  Incarnation incarnation;
  std::string host;
  template <class V>
  void fields(V& v) {
    v(worker, incarnation, host);
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
struct Prepared {
  ViewNumber view;
  std::vector<WorkerId> excluded;
  std::string reason;
  template <class V>
  void fields(V& v) {
    v(view, excluded, reason);
  }
};
struct Committed {
  ViewRecord record;
  template <class V>
  void fields(V& v) {
    v(record);
  }
};
struct NumericDecision {
  Step step;
  std::uint32_t attempt = 0;
  Hash128 digest;
  std::string decision;
  template <class V>
  void fields(V& v) {
    v(step, attempt, digest, decision);
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
  template <class V>
  void fields(V& v) {
    v(step, weights, success, reason);
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

using LogRecord = std::variant<log_record::GenerationStarted, log_record::JobRecorded, log_record::WorkerAccepted,
                               log_record::DrainAccepted, log_record::WorkerReleased, log_record::Prepared,
                               log_record::Committed, log_record::NumericDecision, log_record::StepLogged,
                               log_record::WaitingStarted, log_record::Finished, log_record::FaultFired>;

// "fault: kill worker 1 at step 5, backward".
[[nodiscard]] std::string describe(const log_record::FaultFired& fault);

// A short name for logs and event lists ("view committed").
[[nodiscard]] const char* record_name(const LogRecord& record);

}  // namespace planaria
