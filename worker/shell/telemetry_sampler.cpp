#include "worker/shell/telemetry_sampler.hpp"

#include <utility>

#include "common/unix_time.hpp"
#include "proto/telemetry.hpp"
#include "proto/telemetry.pb.h"

namespace planaria {

void TelemetrySampler::configure(std::string endpoint, double tokens_per_micro_batch) {
  endpoint_ = std::move(endpoint);
  tokens_per_micro_batch_ = tokens_per_micro_batch;
}

Status TelemetrySampler::connect(PeerId self, const Welcome& welcome) {
  self_ = self;
  job_key_ = welcome.job_key;
  if (endpoint_.empty() || pusher_) return ok_status();
  PLANARIA_ASSIGN(pusher_, TelemetryPusher::open(endpoint_, welcome.frame_key));
  return ok_status();
}

void TelemetrySampler::phase_is(Phase phase, Instant now) {
  if (phase_since_) phase_seconds_[static_cast<std::size_t>(phase_)] += to_seconds(now - *phase_since_);
  phase_since_ = now;
  phase_ = phase;
}

void TelemetrySampler::committed(const StepCommitted& commit, double seconds) {
  commit_ = commit;
  commit_seconds_ = seconds;
}

bool TelemetrySampler::due(Instant now) const {
  return pusher_ != nullptr && now >= pushed_at_ + (commit_ ? kAtCommit : kEvery);
}

void TelemetrySampler::tick(const WorkerCore& core, const AgentCounters& counters,
                            const std::map<WorkerId, PeerStats>& peers, Instant now) {
  if (!due(now)) return;
  pushed_at_ = now;
  telemetry::Envelope envelope;
  envelope.set_version(kTelemetryVersion);
  envelope.set_job_key(job_key_);
  telemetry::Sample& sample = *envelope.add_samples();
  sample.set_worker(self_.worker.value());
  sample.set_incarnation(self_.incarnation.value());
  sample.set_view(core.view().value());
  sample.set_step(core.step().value());
  sample.set_phase(static_cast<telemetry::Phase>(core.phase()));
  sample.set_monotonic_ns(static_cast<std::uint64_t>(now.ns));
  sample.set_unix_ms(static_cast<std::uint64_t>(unix_ms_now()));
  sample.set_micro_batches_per_second(rate_);
  sample.set_tokens_per_second(rate_ * tokens_per_micro_batch_);
  if (commit_) {
    telemetry::StepResult& result = *sample.mutable_committed();
    result.set_step(commit_->step.value());
    result.set_loss(commit_->loss);
    if (commit_->validation_loss) result.set_validation_loss(*commit_->validation_loss);
    result.set_gradient_norm(commit_->gradient_norm);
    result.set_learning_rate(commit_->learning_rate);
    result.set_seconds(commit_seconds_);
    commit_.reset();
  }
  const ExecutorCounters& executor = counters.executor;
  sample.set_micro_batches_computed(executor.micro_batches);
  sample.set_micro_batches_recomputed(executor.recomputed);
  sample.set_computing_seconds(to_seconds(executor.computing));
  sample.set_waiting_seconds(to_seconds(executor.waiting));
  if (counters.copying) {
    telemetry::StateCopying& copying = *sample.mutable_copying();
    copying.set_copies(counters.copying->copies);
    copying.set_copied_bytes(counters.copying->bytes);
    copying.set_failed(counters.copying->failed);
    copying.set_attached_bytes(counters.copying->attached_bytes);
    copying.set_copying_seconds(to_seconds(counters.copying->copying));
    copying.set_trainer_seconds(to_seconds(executor.snapshots));
  }
  if (counters.keeping) {
    telemetry::StateKeeping& keeping = *sample.mutable_keeping();
    keeping.set_memory_bytes(counters.keeping->memory_bytes);
    keeping.set_memory_bound_bytes(counters.keeping->bound_bytes);
    keeping.set_sent_bytes(counters.keeping->sent_bytes);
    keeping.set_damaged_tiles(counters.keeping->damaged_tiles);
    keeping.set_damaged_parities(counters.keeping->damaged_parities);
  }
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
  for (const auto& [worker, stats] : peers) {
    sent += stats.bytes_out;
    received += stats.bytes_in;
    telemetry::PeerStats& peer = *sample.add_peers();
    peer.set_worker(worker.value());
    peer.set_bytes_sent(stats.bytes_out);
    peer.set_bytes_received(stats.bytes_in);
    peer.set_messages_sent(stats.frames_out);
    peer.set_messages_received(stats.frames_in);
    peer.set_failures(stats.peer_errors + stats.corrupt);
  }
  sample.set_bytes_sent(sent);
  sample.set_bytes_received(received);
  for (std::size_t i = 0; i < phase_seconds_.size(); ++i) {
    if (phase_seconds_[i] == 0) continue;
    telemetry::PhaseTime& time = *sample.add_phase_times();
    time.set_phase(static_cast<telemetry::Phase>(i));
    time.set_seconds(phase_seconds_[i]);
  }
  sample.set_memory_resident_bytes(resident_bytes());
  sample.set_memory_model_bytes(executor.buffer_bytes);
  if (core.identity() && core.view_record()) {
    for (const StageAssignment& stage : core.view_record()->stages) {
      if (stage.worker == core.identity()->worker) sample.set_slots(sample.slots() + stage.work.slots.size());
    }
  }
  pusher_->push(envelope);
}

}  // namespace planaria
