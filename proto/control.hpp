// Control messages between workers and the coordinator. They are encoded with common/codec.hpp and travel inside an
// Envelope; the shell that carries them (CAF) sees bytes only.
//
// A coordinator's message carries its generation, a worker's its incarnation: lower ones are refused by the receiver.
//
// Thread contract: plain values.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/clock.hpp"
#include "common/codec.hpp"
#include "common/hash.hpp"
#include "common/ids.hpp"
#include "proto/data_message.hpp"
#include "proto/layout.hpp"
#include "proto/view_packing.hpp"

namespace planaria {

inline constexpr std::uint32_t kProtocolVersion = 1;

// On the wire: a CAF message (atom "ctl", std::vector<uint8_t>) either way, the envelope's bytes in the vector, which
// both ends register with CAF under this name. An envelope's first four bytes are its protocol version, in every
// version.
inline constexpr char kControlBytesType[] = "planaria.bytes";

enum class Phase : std::uint8_t { idle, fetch, forward, backward, reduce, gate, update, commit, finished, count_ };
[[nodiscard]] const char* to_string(Phase phase);

// All members of a view had these blocks alike: they are right.
struct ComparedState {
  Step step;
  std::vector<BlockHash> blocks;  // all of them, in order
  bool operator==(const ComparedState&) const = default;
  template <class V>
  void fields(V& v) {
    v(step, blocks);
  }
};

// What a worker holds of the state after one step.
struct HeldState {
  Step stamp;
  std::vector<TileRange> state;       // master and moments
  std::vector<TileRange> parameters;  // master, of these tiles besides
  std::vector<BlockHash> hashes;      // when they were compared or asked for
  template <class V>
  void fields(V& v) {
    v(stamp, state, parameters, hashes);
  }
};

// What a worker holds that could serve others.
struct Holdings {
  std::vector<HeldState> states;          // by ascending stamp
  std::optional<ComparedState> compared;  // the newest that it knows
  std::uint32_t lineage = 0;              // of the last view that it took part in: ResumePlan
  std::vector<Step> checkpoints;          // steps of durable checkpoints it can load
  std::vector<HeldFragment> fragments;    // of a keeper: parity; data is among `states`

  // The newest step of which it holds anything.
  [[nodiscard]] std::optional<Step> newest() const {
    return states.empty() ? std::nullopt : std::optional(states.back().stamp);
  }

  template <class V>
  void fields(V& v) {
    v(states, compared, lineage, checkpoints, fragments);
  }
};

// ---- worker → coordinator ----

struct Identity {
  WorkerId worker;
  Incarnation incarnation;
  ViewNumber view;      // last committed view it knows
  ViewNumber prepared;  // highest view number it has reported for
  auto operator<=>(const Identity&) const = default;
  template <class V>
  void fields(V& v) {
    v(worker, incarnation, view, prepared);
  }
};

// What a worker brings, for the planner. How fast it computes the job it tells once it does so.
struct WorkerResources {
  std::uint64_t memory_bytes = 0;  // that training may use; 0 = it doesn't know
  bool memory_of_host = false;     // they are the machine's: its workers share them
  std::string zone;                // machines of one zone are near each other
  std::string nic;                 // class of its network; empty = the common one
  double gflops = 0;               // of its device, as measured in products of matrices; 0 = it doesn't know
  template <class V>
  void fields(V& v) {
    v(memory_bytes, memory_of_host, zone, nic, gflops);
  }
};

struct Register {
  static constexpr std::size_t kMostKernelBytes = std::size_t{128} << 10;

  std::uint32_t protocol = kProtocolVersion;
  // Absent: the worker asks for the job, and where it tells its numeric class, for the kernels that are chosen for it.
  std::optional<Hash128> job;
  Role role = Role::worker;
  std::string join_token;
  std::string numeric_class;         // of a worker; a keeper computes nothing
  Hash128 probe;                     // likewise
  ByteVector kernels;                // algorithms that its device measured, or was given; empty: it has no choice
  std::optional<WorkerId> wanted;    // proposed id of a first start
  std::optional<Identity> identity;  // of a worker that was registered before
  std::string host;
  std::uint32_t threads = 1;
  std::uint64_t process_id = 0;
  WorkerResources resources;
  ByteVector address;
  Holdings holdings;

  template <class V>
  void fields(V& v) {
    v(protocol, job, role, join_token, numeric_class, probe, kernels, wanted, identity, host, threads, process_id,
      resources, address, holdings);
  }
};

// What a worker's own transfers to another have shown of the way there; 0 = not measured.
struct LinkMeasure {
  WorkerId to;
  double bytes_per_second = 0;
  double latency_seconds = 0;  // one way
  template <class V>
  void fields(V& v) {
    v(to, bytes_per_second, latency_seconds);
  }
};

struct Heartbeat {
  static constexpr std::size_t kMostLinks = 16;

  ViewNumber view;
  Step step;
  Phase phase = Phase::idle;
  std::uint64_t progress = 0;           // counts finished actions; equal values mean a standstill
  std::optional<WorkerId> waiting_on;   // the lowest member whose message it lacks
  double micro_batches_per_second = 0;  // of its own computing, 0 = not measured
  std::vector<float> block_seconds;     // of one micro-batch, both ways, by block; 0 = not measured; none = nothing is
  double beside_seconds = 0;            // of a step's own work besides micro-batches; 0 = not measured
  double snapshot_wait_seconds = 0;     // that its gates waited for keepers alone, since it began
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
  std::vector<LinkMeasure> links;  // some, in turns: those that changed, others now and then

  template <class V>
  void fields(V& v) {
    v(view, step, phase, progress, waiting_on, micro_batches_per_second, block_seconds, beside_seconds,
      snapshot_wait_seconds, bytes_sent, bytes_received, links);
  }
};

// The answer to Prepare.
struct StageProgress {
  StageWork work;
  std::uint32_t done = 0;  // slots, from the first
  template <class V>
  void fields(V& v) {
    v(work, done);
  }
};

// Work of a step that is committed and whose state no snapshot protects yet.
struct KeptWork {
  Step step;
  std::uint32_t attempt = 0;
  bool skipped = false;  // its update was left out
  std::vector<StageProgress> stages;
  std::vector<TileRange> reduced;
  bool operator==(const KeptWork&) const = default;
  template <class V>
  void fields(V& v) {
    v(step, attempt, skipped, stages, reduced);
  }
};

struct Report {
  ViewNumber prepare;
  ViewNumber view;  // the view it was in; 0 = none
  Holdings holdings;
  Step work_step;  // the step whose partial work it holds
  std::uint32_t attempt = 0;
  bool released = true;               // no work of work_step was begun, or all of it is committed and freed
  std::vector<StageProgress> stages;  // its own of work_step
  std::vector<TileRange> reduced;     // tiles of work_step's reduced gradient that it holds, verified
  std::vector<BlockHash> gradient;    // hashes of work_step's tile sums, once measured
  bool alarm = false;                 // that gradient isn't finite, as far as it knows
  std::vector<SlotRange> nonfinite;   // whose gradients aren't, as far as it knows; looked at from attempt 1 on
  std::optional<KeptWork> kept;       // of the step before

  template <class V>
  void fields(V& v) {
    v(prepare, view, holdings, work_step, attempt, released, stages, reduced, gradient, alarm, nonfinite, kept);
  }
};

// A boundary Prepare came too late: the worker has begun the step after it.
struct BoundaryPassed {
  ViewNumber prepare;
  Step step;
  template <class V>
  void fields(V& v) {
    v(prepare, step);
  }
};

enum class EvidenceKind : std::uint8_t {
  peer_unreachable,   // the transport says so; a hint
  corrupt_payload,    // a payload didn't match its hash
  nonfinite,          // the step's gradient norm is not finite
  gradient_mismatch,  // a member's sums of the reduced gradient differ
  state_mismatch,     // a member's hash of a block differs
  fetch_failed,       // state could not be fetched from its source
  count_
};
[[nodiscard]] const char* to_string(EvidenceKind kind);

struct Evidence {
  ViewNumber view;
  EvidenceKind kind = EvidenceKind::peer_unreachable;
  WorkerId about;
  Step step;
  std::string detail;
  template <class V>
  void fields(V& v) {
    v(view, kind, about, step, detail);
  }
};

struct StepCommitted {
  ViewNumber view;
  Step step;
  double loss = 0;                        // mean over the step's tokens, nats
  std::optional<double> validation_loss;  // of the parameters before the step
  double gradient_norm = 0;
  double learning_rate = 0;
  bool skipped = false;                      // update skipped: nonfinite gradient
  std::uint64_t micro_batches_computed = 0;  // by this worker, in this step
  template <class V>
  void fields(V& v) {
    v(view, step, loss, validation_loss, gradient_norm, learning_rate, skipped, micro_batches_computed);
  }
};

// When a worker began and ended to compute slots that it took over (host's monotonic clock).
struct RecomputeNotice {
  ViewNumber view;
  Step step;
  Instant first_slot_started;
  std::optional<Instant> last_slot_done;
  template <class V>
  void fields(V& v) {
    v(view, step, first_slot_started, last_slot_done);
  }
};

// State that a view has a worker fetch from its host's keeper was taken from that one's memory.
struct AttachNotice {
  ViewNumber view;
  std::uint64_t bytes = 0;
  double seconds = 0;  // of copying and checking
  template <class V>
  void fields(V& v) {
    v(view, bytes, seconds);
  }
};

struct CheckpointSaved {
  Step step;
  bool ok = true;
  std::string detail;
  template <class V>
  void fields(V& v) {
    v(step, ok, detail);
  }
};

// A keeper's part of a durable snapshot.
struct SnapshotSaved {
  SnapshotName snapshot;
  bool ok = true;
  std::uint64_t bytes = 0;
  std::string detail;
  template <class V>
  void fields(V& v) {
    v(snapshot, ok, bytes, detail);
  }
};

struct DrainRequest {
  std::string reason;
  template <class V>
  void fields(V& v) {
    v(reason);
  }
};

// The hashes of a block's tensors as they are exported, in the order of their names.
struct BlockWeights {
  std::uint32_t block = 0;
  std::vector<Hash128> tensors;
  bool operator==(const BlockWeights&) const = default;
  template <class V>
  void fields(V& v) {
    v(block, tensors);
  }
};

// Every step and the final evaluation are committed here; the writer's last checkpoint is durable.
struct Done {
  ViewNumber view;
  Step step;
  std::vector<BlockWeights> weights;  // of the blocks that it holds
  std::optional<double> final_loss;   // who only took part in the final evaluation doesn't know it
  double final_validation_loss = 0;
  template <class V>
  void fields(V& v) {
    v(view, step, weights, final_loss, final_validation_loss);
  }
};

using WorkerMessage = std::variant<Register, Heartbeat, Report, BoundaryPassed, Evidence, StepCommitted,
                                   RecomputeNotice, AttachNotice, CheckpointSaved, SnapshotSaved, DrainRequest, Done>;

struct WorkerEnvelope {
  std::uint32_t protocol = kProtocolVersion;
  WorkerId worker;  // both 0 until Welcome
  Incarnation incarnation;
  WorkerMessage message;
  template <class V>
  void fields(V& v) {
    v(protocol, worker, incarnation, message);
  }
};

// ---- coordinator → worker ----

struct Welcome {
  WorkerId worker;
  Incarnation incarnation;
  std::uint64_t job_key = 0;  // tags data-plane frames of this job
  ByteVector frame_key;       // 32 bytes when the data plane is keyed, else empty
  std::string job_toml;       // the job, for workers that asked
  ByteVector kernels;         // to those, too: the job's, which their device takes; empty: it chooses by itself
  template <class V>
  void fields(V& v) {
    v(worker, incarnation, job_key, frame_key, job_toml, kernels);
  }
};

struct Refused {
  std::string reason;
  bool permanent = true;  // trying again can't help
  template <class V>
  void fields(V& v) {
    v(reason, permanent);
  }
};

// Stop using the current view and report. With a boundary: finish that step first.
struct Prepare {
  ViewNumber view;
  std::vector<WorkerId> excluded;
  std::optional<Step> boundary;
  bool want_state_hash = false;   // of all states held
  bool want_checkpoints = false;  // as they are now: others may have written some
  template <class V>
  void fields(V& v) {
    v(view, excluded, boundary, want_state_hash, want_checkpoints);
  }
};

// Never null: members that come from the same view are sent the same bytes, which aren't copied for each.
struct CommitView {
  std::shared_ptr<const PackedView> packed = std::make_shared<const PackedView>();
  template <class V>
  void fields(V& v) {
    v(packed);
  }
};

// "Are you there?": something says that the receiver may be dead. It answers with a heartbeat at once.
struct Probe {
  template <class V>
  void fields(V&) {}
};

// The receiver is not (any more) a member: expelled ones may register again, keeping their state.
struct Fenced {
  Incarnation incarnation;  // that is no member any more: an answer to a later one of the worker means nothing
  std::string reason;
  template <class V>
  void fields(V& v) {
    v(incarnation, reason);
  }
};

// A drained worker may leave; nobody needs what it holds.
struct Released {
  template <class V>
  void fields(V&) {}
};

// `Finished` is logged: everyone may exit.
struct Finish {
  std::string reason;
  bool success = true;
  template <class V>
  void fields(V& v) {
    v(reason, success);
  }
};

using CoordinatorMessage = std::variant<Welcome, Refused, Prepare, CommitView, Probe, Fenced, Released, Finish>;

struct CoordinatorEnvelope {
  std::uint32_t protocol = kProtocolVersion;
  Generation generation;
  CoordinatorMessage message;
  template <class V>
  void fields(V& v) {
    v(protocol, generation, message);
  }
};

}  // namespace planaria
