#include <fmt/format.h>

#include <cmath>
#include <string_view>

#include "coordinator/http/status.hpp"

namespace planaria {

namespace {

class Exposition {
 public:
  void family(std::string_view name, std::string_view type, std::string_view help) {
    name_ = name;
    text_ += fmt::format("# HELP planaria_{0} {1}\n# TYPE planaria_{0} {2}\n", name, help, type);
  }
  void value(double value, const std::string& labels = "") {
    if (std::isnan(value)) {
      text_ += fmt::format("planaria_{}{} NaN\n", name_, labels);
    } else if (std::isinf(value)) {
      text_ += fmt::format("planaria_{}{} {}Inf\n", name_, labels, value < 0 ? "-" : "+");
    } else {
      text_ += fmt::format("planaria_{}{} {}\n", name_, labels, value);
    }
  }
  void single(std::string_view name, std::string_view type, std::string_view help, double number) {
    family(name, type, help);
    value(number);
  }
  void single(std::string_view name, std::string_view type, std::string_view help, std::optional<double> number) {
    if (number) single(name, type, help, *number);
  }
  std::string take() { return std::move(text_); }

 private:
  std::string text_;
  std::string_view name_;
};

std::string label_value(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '\n') {
      escaped += "\\n";
      continue;
    }
    if (c == '\\' || c == '"') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

double number(std::uint64_t value) {
  return static_cast<double>(value);
}

}  // namespace

std::string metrics_text(const StatusSnapshot& s) {
  Exposition out;
  out.family("info", "gauge", "The job; always 1.");
  out.value(1, fmt::format("{{job=\"{}\",job_hash=\"{}\"}}", label_value(s.job_name), s.job_hash.hex()));
  out.family("status", "gauge", "1 for the job's present status.");
  for (const auto* name : {"starting", "training", "changing", "waiting", "finished", "failed", "stopped"}) {
    out.value(s.status == name ? 1 : 0, fmt::format("{{status=\"{}\"}}", name));
  }
  out.single("view", "gauge", "Number of the current view.", number(s.view.value()));
  out.single("generation", "gauge", "Starts of the coordinator over this log.", number(s.generation.value()));
  out.single("step", "gauge", "Last committed step.", number(s.step.value()));
  out.single("steps_target", "gauge", "Steps of the whole job.", number(s.total_steps));
  out.single("loss", "gauge", "Mean training loss of the last step, nats.", s.loss);
  out.single("validation_loss", "gauge", "Last validation loss, nats.", s.validation_loss);
  out.single("learning_rate", "gauge", "Learning rate of the last step.", s.learning_rate);
  out.single("gradient_norm", "gauge", "Gradient norm of the last step before clipping.", s.gradient_norm);
  out.single("tokens_per_second", "gauge", "Tokens of committed steps a second.", s.tokens_per_second);
  out.single("eta_seconds", "gauge", "Expected seconds to the last step.", s.eta_seconds);
  out.single("steps_committed_total", "counter", "Committed steps, over restarts.", number(s.steps_committed));
  out.single("sequences_used_total", "counter", "Sequences that committed steps used.", number(s.sequences_used));
  out.single("views_total", "counter", "Committed views.", number(s.views));
  out.single("microbatches_computed_total", "counter", "Micro-batches that workers reported with commits.",
             number(s.micro_batches_computed));
  out.single("refused_messages_total", "counter", "Control messages that could not be read.",
             number(s.refused_messages));
  out.single("telemetry_samples_total", "counter", "Telemetry samples received.", number(s.telemetry_samples));
  out.single("telemetry_dropped_total", "counter", "Telemetry frames that could not be used.",
             number(s.telemetry_dropped));
  out.single("log_stalled", "gauge", "1 while decisions can't be made durable.", s.log_error.empty() ? 0.0 : 1.0);

  std::uint64_t planned = 0;
  for (const auto& recovery : s.recoveries) planned += recovery.planned ? 1 : 0;
  out.family("view_changes_total", "counter", "View changes by kind, since the coordinator's start.");
  out.value(number(planned), "{kind=\"planned\"}");
  out.value(number(s.recoveries.size() - planned), "{kind=\"recovery\"}");

  if (s.snapshots) {
    const SnapshotStatus& snapshots = *s.snapshots;
    out.single("snapshot_every_steps", "gauge", "A snapshot is made each so many steps.",
               number(snapshots.every_steps));
    if (snapshots.complete) {
      out.single("snapshot_complete_step", "gauge", "Step of the view's newest whole snapshot.",
                 number(snapshots.complete->value()));
    }
    if (snapshots.tolerated) {
      out.single("snapshot_tolerated_hosts", "gauge", "Any so many hosts may be lost at once.",
                 static_cast<double>(*snapshots.tolerated));
    }
    out.single("snapshot_overhead_ratio", "gauge", "Part of the time that steps wait for snapshots.",
               snapshots.overhead);
  }

  std::uint64_t members = 0;
  for (const auto& row : s.workers) members += row.member ? 1 : 0;
  out.single("members", "gauge", "Members of the current view.", number(members));
  const auto each = [&](std::string_view name, std::string_view type, std::string_view help, auto value) {
    out.family(name, type, help);
    for (const auto& row : s.workers) {
      if (row.status == "left" || row.status == "lost") continue;
      const std::optional<double> found = value(row);
      if (!found) continue;
      out.value(*found, fmt::format("{{worker=\"{}\",host=\"{}\"}}", row.worker.value(), label_value(row.host)));
    }
  };
  using Row = const WorkerStatusRow&;
  using Found = std::optional<double>;
  each("worker_step", "gauge", "Step that the worker works on.", [](Row r) -> Found { return number(r.step.value()); });
  each("worker_slots", "gauge", "Slots that the worker owns.", [](Row r) -> Found { return r.work.slots.size(); });
  each("worker_microbatches_per_second", "gauge", "Micro-batches a second of the worker's own computing.",
       [](Row r) -> Found { return r.micro_batches_per_second; });
  each("worker_lease_left_seconds", "gauge", "Time until the silent worker is declared lost.",
       [](Row r) -> Found { return r.lease_left_ms ? Found(*r.lease_left_ms / 1000) : Found(); });
  each("worker_sent_bytes_total", "counter", "Bytes sent on the data plane.",
       [](Row r) -> Found { return number(r.bytes_sent); });
  each("worker_received_bytes_total", "counter", "Bytes received on the data plane.",
       [](Row r) -> Found { return number(r.bytes_received); });
  each("worker_memory_bytes", "gauge", "Resident memory of the worker.",
       [](Row r) -> Found { return r.memory_bytes ? Found(number(*r.memory_bytes)) : Found(); });
  each("worker_computing_seconds_total", "counter", "Seconds that the worker computed micro-batches.",
       [](Row r) -> Found { return r.computing_s; });
  each("worker_waiting_seconds_total", "counter",
       "Seconds that the worker had nothing to do between micro-batches of one step and view.",
       [](Row r) -> Found { return r.waiting_s; });
  const auto copying = [&](std::string_view name, std::string_view help, auto field) {
    each(name, "counter", help,
         [field](Row r) { return r.copying ? Found(static_cast<double>((*r.copying).*field)) : Found(); });
  };
  copying("snapshot_copies_total", "Copies of the worker's state into its host's keeper.", &StateCopyingRow::copies);
  copying("snapshot_copied_bytes_total", "Bytes of these copies.", &StateCopyingRow::copied_bytes);
  copying("snapshot_copy_failures_total", "Copies that failed; this state went over the network instead.",
          &StateCopyingRow::failed);
  copying("snapshot_attached_bytes_total", "Bytes of state that the worker had out of its host's memory.",
          &StateCopyingRow::attached_bytes);
  copying("snapshot_copying_seconds_total", "Seconds of the copying thread, beside the training.",
          &StateCopyingRow::copying_s);
  copying("snapshot_trainer_seconds_total", "Seconds that snapshots took from the trainer thread.",
          &StateCopyingRow::trainer_s);
  const auto keeping = [&](std::string_view name, std::string_view type, std::string_view help, auto field) {
    each(name, type, help, [field](Row r) { return r.keeping ? Found(number((*r.keeping).*field)) : Found(); });
  };
  keeping("keeper_memory_bytes", "gauge", "Memory that the keeper's snapshots take.", &StateKeepingRow::memory_bytes);
  keeping("keeper_memory_bound_bytes", "gauge", "What they may take.", &StateKeepingRow::memory_bound_bytes);
  keeping("keeper_sent_bytes_total", "counter", "Bytes of fragments that the keeper sent.",
          &StateKeepingRow::sent_bytes);
  keeping("keeper_damaged_tiles_total", "counter",
          "Tiles in the keeper's memory that didn't match their hash, and were given up.",
          &StateKeepingRow::damaged_tiles);
  keeping("keeper_damaged_parities_total", "counter", "Likewise, parity of a stripe.",
          &StateKeepingRow::damaged_parities);
  return out.take();
}

}  // namespace planaria
