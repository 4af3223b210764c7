#include "cli/local_job.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "chaos/faults/local_run.hpp"
#include "cli/http_client.hpp"
#include "cli/run_directory.hpp"
#include "cli/stop_signal.hpp"
#include "cli/terminal_view.hpp"
#include "worker/data/dataset.hpp"
#include "worker/trainer/ledger.hpp"

namespace planaria {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr auto kRefresh = std::chrono::milliseconds(250);

std::string describe(const FiredFault& fault) {
  std::string text = to_string(fault.kind);
  if (fault.worker) text += fmt::format(" worker {}", *fault.worker);
  if (fault.step) text += fmt::format(" at step {}", *fault.step);
  if (fault.phase) text += fmt::format(", {}", to_string(*fault.phase));
  return text;
}

json fired_json(const FiredFault& fault) {
  return {{"kind", to_string(fault.kind)},
          {"step", fault.step ? json(*fault.step) : json(nullptr)},
          {"phase", fault.phase ? json(to_string(*fault.phase)) : json(nullptr)},
          {"worker", fault.worker ? json(*fault.worker) : json(nullptr)}};
}

// Tells the coordinator of the faults that struck since `told`, for its log; returns how many it knows now.
std::size_t tell_faults(const LocalRunProgress& progress, std::size_t told) {
  const HttpTarget coordinator{"127.0.0.1", std::to_string(progress.http_port)};
  for (; told < progress.fired.size(); ++told) {
    json body = fired_json(progress.fired[told]);
    body["number"] = told;
    if (!http_post(coordinator, "/v1/faults", body, 200)) break;  // it may be the one that was struck
  }
  return told;
}

// Counts what the ledgers under the run's directory hold, which should be the steps after `base` up to `last`.
Result<json> count_ledgers(const JobSpec& job, const std::string& output, Step base, Step last) {
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::uint32_t> seen;
  std::uint64_t computed = 0;
  const fs::path root = fs::path(output) / "workers";
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(root, error)) {
    if (!entry.is_regular_file() || !entry.path().filename().string().starts_with("ledger.")) continue;
    PLANARIA_ASSIGN(const LedgerContent ledger, read_ledger(entry.path().string()));
    for (const LedgerRecord& record : ledger.records) {
      ++computed;
      ++seen[{record.step.value(), record.micro_batch.value()}];
    }
  }
  std::uint64_t missing = 0;
  for (std::uint64_t step = base.next().value(); step <= last.value(); ++step) {
    for (std::uint32_t i = 0; i < job.batch.micro_batches; ++i) missing += seen.contains({step, i}) ? 0 : 1;
  }
  return json{{"computed", computed}, {"repeated", computed - seen.size()}, {"missing", missing}};
}

// When chaos gave the order that killed or stopped a recovery's victims: the last one before they were declared lost.
std::optional<std::int64_t> signal_time(const std::vector<FiredFault>& fired, const json& recovery) {
  const auto times = recovery.find("times_ns");
  if (times == recovery.end() || !(*times)["declared"].is_number()) return std::nullopt;
  const auto declared = (*times)["declared"].get<std::int64_t>();
  std::optional<std::int64_t> at;
  for (const FiredFault& fault : fired) {
    const bool deadly = fault.kind == FaultKind::kill || fault.kind == FaultKind::stop;
    const bool victim =
        fault.worker && std::ranges::find(recovery["victims"], json(*fault.worker)) != recovery["victims"].end();
    if (deadly && victim && fault.at.ns <= declared) at = fault.at.ns;
  }
  return at;
}

json recovery_summary(const json& recovery, const std::vector<FiredFault>& fired) {
  json summary = {{"cause", recovery["cause"]},     {"planned", recovery["planned"]},
                  {"at_step", recovery["at_step"]}, {"lost_slots", recovery["lost_slots"]},
                  {"tier", recovery["tier"]},       {"phase_ms", recovery["phase_ms"]}};
  const auto signal = signal_time(fired, recovery);
  if (!signal) return summary;
  // With the chaos clock the interval begins at the signal itself, not at the first evidence of it.
  const json& times = recovery["times_ns"];
  json& phases = summary["phase_ms"];
  phases["detect"] = static_cast<double>(times["declared"].get<std::int64_t>() - *signal) / 1e6;
  if (times["step_committed"].is_number()) {
    phases["total"] = static_cast<double>(times["step_committed"].get<std::int64_t>() - *signal) / 1e6;
  }
  if (times["first_slot_started"].is_number()) {
    phases["overhead"] = static_cast<double>(times["first_slot_started"].get<std::int64_t>() - *signal) / 1e6;
  }
  return summary;
}

Result<json> summarize(const JobSpec& job, const LocalJobOptions& options, const LocalRunProgress& progress, Step base,
                       double wall_s) {
  std::ifstream file(options.output + "/result.json");
  const json status = json::parse(file, nullptr, false);
  if (!status.is_object()) {
    return Error(ErrorCode::internal,
                 "the coordinator left no result.json in " + options.output + "; see coordinator.log there");
  }
  json summary = {{"status", status["status"]}, {"reason", status["reason"]}};
  for (const char* key : {"job_hash", "numeric_class", "final_step", "final_loss", "final_val_loss", "weights_hash",
                          "steps_committed", "sequences_used", "views"}) {
    summary[key] = status[key];
  }
  PLANARIA_ASSIGN(const json ledger,
                  count_ledgers(job, options.output, base, Step(status["steps_committed"].get<std::uint64_t>())));
  summary["microbatches_computed"] = ledger["computed"];
  summary["ledger"] = {{"repeated", ledger["repeated"]}, {"missing", ledger["missing"]}};
  summary["wall_s"] = wall_s;
  summary["tokens_per_s"] =
      wall_s > 0 ? static_cast<double>(job.tokens_per_step()) *
                       (status["steps_committed"].get<double>() - static_cast<double>(base.value())) / wall_s
                 : 0.0;
  std::size_t members = 0;
  for (const json& worker : status["workers"]) members += worker["member"].get<bool>() ? 1 : 0;
  summary["workers_at_end"] = members;
  // A checkpoint gets its name when it is whole.
  summary["result_saved"] = fs::exists(fs::path(options.output) / "checkpoints" /
                                       fmt::format("step-{:08}", status["steps_committed"].get<std::uint64_t>()));
  summary["faults_requested"] = progress.requested;
  summary["faults_fired"] = json::array();
  for (const FiredFault& fault : progress.fired) summary["faults_fired"].push_back(fired_json(fault));
  summary["recoveries"] = json::array();
  for (const json& recovery : status["recoveries"]) {
    summary["recoveries"].push_back(recovery_summary(recovery, progress.fired));
  }
  return summary;
}

// The newest sound checkpoint of `resume` becomes the first one of the new run; its step.
Result<Step> copy_checkpoint(JobSpec job, const LocalJobOptions& options) {
  PLANARIA_ASSIGN(const RunModel run, open_run(options.resume));
  tell_refused(run.refused);
  PLANARIA_ASSIGN(const Dataset dataset, Dataset::open(job.data, job.model.context, job.model.vocab));
  job.data.content_hash = dataset.content_hash();
  if (job_hash(job) != job_hash(run.job)) {
    return Error(ErrorCode::mismatch,
                 fmt::format("{} holds a run of another job ({}; this is {}): only the same model, data, "
                             "optimizer, batch, steps and seed go on to the same bits; without "
                             "--resume the job starts anew",
                             options.resume, job_hash(run.job).hex(), job_hash(job).hex()));
  }
  const std::string name = fmt::format("step-{:08}", run.state.step.value());
  const fs::path from = fs::path(options.resume) / "checkpoints" / name;
  const fs::path to = fs::path(options.output) / "checkpoints";
  std::error_code error;
  fs::create_directories(to, error);
  fs::copy(from, to / name, fs::copy_options::recursive, error);
  if (error) return Error(ErrorCode::io, "can't copy " + from.string() + ": " + error.message());
  return run.state.step;
}

// The step that the run goes on from, and of which its directory holds no earlier ones.
Result<Step> prepare_output(const JobSpec& job, const LocalJobOptions& options) {
  std::error_code error;
  fs::create_directories(options.output, error);
  if (error) return Error(ErrorCode::io, "can't make " + options.output + ": " + error.message());
  const bool used = fs::exists(fs::path(options.output) / "coordinator");
  if (options.resume.empty()) {
    if (!used) return Step(0);
    return Error(ErrorCode::invalid_argument,
                 options.output + " holds an earlier run: give another --out, remove it, or go on with --resume " +
                     options.output);
  }
  // In its own directory a run simply goes on: its log and its checkpoints are there.
  if (fs::equivalent(options.output, options.resume, error)) return Step(0);
  if (used) return Error(ErrorCode::invalid_argument, options.output + " holds an earlier run: give another --out");
  return copy_checkpoint(job, options);
}

}  // namespace

Result<std::string> own_executable() {
  std::error_code error;
  const fs::path path = fs::read_symlink("/proc/self/exe", error);
  if (error) return Error(ErrorCode::io, "can't find this executable: " + error.message());
  return path.string();
}

Result<json> run_local_job(const JobSpec& job, const LocalJobOptions& options) {
  PLANARIA_ASSIGN(const Step base, prepare_output(job, options));
  LocalRunOptions run_options;
  PLANARIA_ASSIGN(run_options.binary, own_executable());
  run_options.job_file = options.job_file;
  run_options.assignments = options.assignments;
  run_options.workers = job.cluster.workers;
  run_options.output = options.output;
  run_options.scenario = options.scenario;
  const auto started = std::chrono::steady_clock::now();
  PLANARIA_ASSIGN(const auto run, LocalRun::start(std::move(run_options)));
  TerminalView view(stderr);
  LocalRunProgress progress;
  std::size_t faults_told = 0;
  do {
    std::this_thread::sleep_for(options.show ? kRefresh : kRefresh / 10);
    if (stop_requested()) run->stop();
    progress = run->progress();
    if (progress.http_port == 0 || progress.ended) continue;
    faults_told = tell_faults(progress, faults_told);
    if (!options.show) continue;
    const auto status = http_get({"127.0.0.1", std::to_string(progress.http_port)}, "/v1/status", 200);
    std::vector<std::string> notes;
    for (const FiredFault& fault : progress.fired) notes.push_back(describe(fault));
    if (status) view.show(*status, notes);
  } while (!progress.ended);
  run->wait();
  progress = run->progress();
  const double wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  if (progress.failure) return *progress.failure;
  if (std::ifstream file(options.output + "/result.json"); options.show && file) {
    const json status = json::parse(file, nullptr, false);
    std::vector<std::string> notes;
    for (const FiredFault& fault : progress.fired) notes.push_back(describe(fault));
    if (status.is_object()) view.show(status, notes);
  }
  return summarize(job, options, progress, base, wall_s);
}

}  // namespace planaria
