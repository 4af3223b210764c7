#include "cli/local_job.hpp"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <thread>

#include "chaos/faults/local_run.hpp"
#include "cli/http_client.hpp"
#include "cli/run_directory.hpp"
#include "cli/stop_signal.hpp"
#include "cli/terminal_view.hpp"
#include "common/file.hpp"
#include "common/host.hpp"
#include "kernels/make_device.hpp"
#include "storage/pretrained.hpp"
#include "worker/data/dataset.hpp"
#include "worker/trainer/ledger.hpp"

namespace planaria {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

// Workers use every core: looking more often takes time from them.
constexpr auto kLook = std::chrono::milliseconds(250);

std::string describe(const FiredFault& fault) {
  std::string text = to_string(fault.kind);
  if (fault.worker) text += fmt::format(" worker {}", *fault.worker);
  if (fault.host) text += fmt::format(" host {}", *fault.host);
  if (fault.step) text += fmt::format(" at step {}", *fault.step);
  if (fault.phase) text += fmt::format(", {}", to_string(*fault.phase));
  return text;
}

json fired_json(const FiredFault& fault) {
  return {{"kind", to_string(fault.kind)},
          {"step", fault.step ? json(*fault.step) : json(nullptr)},
          {"phase", fault.phase ? json(to_string(*fault.phase)) : json(nullptr)},
          {"worker", fault.worker ? json(*fault.worker) : json(nullptr)},
          {"host", fault.host ? json(*fault.host) : json(nullptr)}};
}

// Tells the coordinator of the faults that strike, for its log.
class FaultTeller {
 public:
  void tell(const LocalRunProgress& progress, const HttpTarget& coordinator) {
    if (told_ == progress.fired.size()) return;
    if (!first_number_) {
      const auto status = http_get(coordinator, "/v1/status", 200);
      if (!status) return;
      first_number_ = next_fault_number(*status);
    }
    for (; told_ < progress.fired.size(); ++told_) {
      const FiredFault& fault = progress.fired[told_];
      json body = fired_json(fault);
      body.erase("host");
      if (fault.host) body["kind"] = fmt::format("{} {}", to_string(fault.kind), *fault.host);
      body["number"] = *first_number_ + told_;
      if (!http_post(coordinator, "/v1/faults", body, 200)) return;  // it may be the one that was struck
    }
  }

 private:
  std::optional<std::uint64_t> first_number_;  // of this run: a log that goes on knows earlier ones
  std::size_t told_ = 0;
};

// Counts what the ledgers under the run's directory hold, which should be the steps after `base` up to `last`, in whole
// micro-batches, rounded up.
Result<json> count_ledgers(const JobSpec& job, const std::string& output, Step base, Step last) {
  const std::size_t blocks = StateMap(job.model, job.train.tile_elements).blocks().size();
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::vector<bool>> seen;  // blocks of a step's micro-batch
  std::uint64_t computed = 0;                                                 // blocks of micro-batches
  std::uint64_t repeated = 0;
  const fs::path root = fs::path(output) / "workers";
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(root, error)) {
    if (!entry.is_regular_file() || !entry.path().filename().string().starts_with("ledger.")) continue;
    PLANARIA_ASSIGN(const LedgerContent ledger, read_ledger(entry.path().string()));
    for (const LedgerRecord& record : ledger.records) {
      std::vector<bool>& of_blocks = seen[{record.step.value(), record.micro_batch.value()}];
      of_blocks.resize(blocks);
      for (std::size_t block = record.blocks.begin; block < std::min<std::size_t>(record.blocks.end, blocks); ++block) {
        ++computed;
        if (of_blocks[block]) ++repeated;
        of_blocks[block] = true;
      }
    }
  }
  std::uint64_t missing = 0;
  for (std::uint64_t step = base.next().value(); step <= last.value(); ++step) {
    for (std::uint32_t i = 0; i < job.batch.micro_batches; ++i) {
      const auto found = seen.find({step, i});
      missing += found == seen.end() || std::ranges::find(found->second, false) != found->second.end() ? 1 : 0;
    }
  }
  const auto whole = [&](std::uint64_t parts) { return (parts + blocks - 1) / blocks; };
  return json{{"computed", whole(computed)}, {"repeated", whole(repeated)}, {"missing", missing}};
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
  json summary;
  for (const char* key : {"cause", "planned", "at_step", "lost_slots", "lost_work", "own_work", "tier"})
    summary[key] = recovery.value(key, json());
  const json known = recovery.value("phase_ms", json::object());
  json& phases = summary["phase_ms"];
  for (const char* key : {"detect", "decide", "move", "recompute"}) phases[key] = known.value(key, json());
  phases["overhead"] = nullptr;
  phases["total"] = known.value("commit", json());
  if (phases["detect"].is_number() && phases["decide"].is_number() && phases["move"].is_number()) {
    phases["overhead"] = phases["detect"].get<double>() + phases["decide"].get<double>() + phases["move"].get<double>();
  }
  const auto signal = signal_time(fired, recovery);
  summary["from"] = signal ? "signal" : "evidence";
  if (!signal) return summary;
  // With the chaos clock the intervals begin at the signal itself, not at the first evidence of it.
  const json& times = recovery["times_ns"];
  const auto since_signal = [&](const char* instant) {
    const json at = times.value(instant, json());
    return at.is_number() ? json(static_cast<double>(at.get<std::int64_t>() - *signal) / 1e6) : json();
  };
  phases["detect"] = since_signal("declared");
  phases["overhead"] = since_signal("first_slot_started");
  phases["total"] = since_signal("step_committed");
  return summary;
}

// The last status that the coordinator left of a job that has ended.
Result<json> read_result(const std::string& output) {
  std::ifstream file(output + "/result.json");
  json status = json::parse(file, nullptr, false);
  const auto has = [&](const char* key, json::value_t type) {
    return status.contains(key) && status[key].type() == type;
  };
  const bool sound = status.is_object() && has("status", json::value_t::string) &&
                     has("job_hash", json::value_t::string) && has("steps_committed", json::value_t::number_unsigned) &&
                     has("workers", json::value_t::array) && has("recoveries", json::value_t::array) &&
                     has("faults", json::value_t::array);
  if (sound) return status;
  return Error(ErrorCode::corrupt, output +
                                       "/result.json is missing or damaged: the coordinator writes it again with "
                                       "`planaria coordinator " +
                                       output + "/job.toml --out " + output + "`");
}

// What one process did for the job: nothing when it found it ended.
struct OwnPart {
  LocalRunProgress progress;
  Step base;                     // that it went on from, in another directory
  std::optional<double> wall_s;  // nothing: no process was started
};

Result<json> summarize(const JobSpec& job, const LocalJobOptions& options, const json& status, const OwnPart& own) {
  json summary;
  for (const char* key : {"status", "reason", "job_hash", "numeric_class", "final_step", "final_loss", "final_val_loss",
                          "weights_hash", "steps_committed", "sequences_used", "views"}) {
    summary[key] = status.value(key, json());
  }
  const auto steps = status["steps_committed"].get<std::uint64_t>();
  PLANARIA_ASSIGN(const json ledger, count_ledgers(job, options.output, own.base, Step(steps)));
  summary["microbatches_computed"] = ledger["computed"];
  summary["ledger"] = {{"repeated", ledger["repeated"]}, {"missing", ledger["missing"]}};
  summary["wall_s"] = own.wall_s ? json(*own.wall_s) : json();
  summary["tokens_per_s"] = nullptr;
  if (own.wall_s.value_or(0) > 0) {
    const auto own_steps = static_cast<double>(steps) - static_cast<double>(own.base.value());
    summary["tokens_per_s"] = static_cast<double>(job.tokens_per_step()) * own_steps / *own.wall_s;
  }
  summary["workers_at_end"] = std::ranges::count_if(status["workers"], [](const json& worker) {
    return worker.value("member", json()) == true && worker.value("role", json()) == "worker";
  });
  // A checkpoint gets its name when it is whole.
  std::error_code unreadable;
  summary["result_saved"] =
      fs::exists(fs::path(options.output) / "checkpoints" / fmt::format("step-{:08}", steps), unreadable);
  summary["faults_requested"] = options.scenario.faults.size();
  summary["faults_fired"] = json::array();
  for (const FiredFault& fault : own.progress.fired) summary["faults_fired"].push_back(fired_json(fault));
  summary["recoveries"] = json::array();
  for (const json& recovery : status["recoveries"]) {
    summary["recoveries"].push_back(recovery_summary(recovery, own.progress.fired));
  }
  return summary;
}

Error another_job(const std::string& directory, const std::string& theirs, const std::string& ours) {
  return {
      ErrorCode::mismatch,
      fmt::format("{} holds a run of another job ({}; this is {}): only the same model, data, optimizer, batch, steps "
                  "and seed go on to the same bits; without --resume the job starts anew",
                  directory, theirs, ours)};
}

// The job's hash, which covers its data and the weights that it starts from.
Result<Hash128> hash_with_data(JobSpec job) {
  PLANARIA_ASSIGN(const Dataset dataset, Dataset::open(job.data, job.model.context, job.model.vocab));
  job.data.content_hash = dataset.content_hash();
  PLANARIA_TRY(open_pretrained(posix_file_system(), job));
  return job_hash(job);
}

bool same_directory(const std::string& a, const std::string& b) {
  std::error_code missing;
  return fs::equivalent(a, b, missing);
}

// The result of a run that is resumed in its own directory after its end: there is nothing to go on with.
Result<std::optional<json>> ended_already(const JobSpec& job, const LocalJobOptions& options) {
  if (options.resume.empty() || !same_directory(options.output, options.resume)) return std::optional<json>();
  if (!posix_file_system().info(join_path(options.output, "result.json"))) return std::optional<json>();
  PLANARIA_ASSIGN(json status, read_result(options.output));
  PLANARIA_ASSIGN(const Hash128 hash, hash_with_data(job));
  const auto theirs = status["job_hash"].get<std::string>();
  if (theirs != hash.hex()) return another_job(options.resume, theirs, hash.hex());
  return std::optional(std::move(status));
}

// The newest sound checkpoint of `resume` becomes the first one of the new run; its step.
Result<Step> copy_checkpoint(const JobSpec& job, const LocalJobOptions& options) {
  PLANARIA_ASSIGN(const RunModel run, open_run(options.resume));
  tell_refused(run.refused);
  PLANARIA_ASSIGN(const Hash128 hash, hash_with_data(job));
  if (hash != job_hash(run.job)) return another_job(options.resume, job_hash(run.job).hex(), hash.hex());
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
  PLANARIA_TRY(posix_file_system().make_directories(options.output));
  const bool used = posix_file_system().info(join_path(options.output, "coordinator")).ok();
  if (options.resume.empty()) {
    if (!used) return Step(0);
    return Error(ErrorCode::invalid_argument,
                 options.output + " holds an earlier run: give another --out, remove it, or go on with --resume " +
                     options.output);
  }
  // In its own directory a run simply goes on: its log and its checkpoints are there.
  if (same_directory(options.output, options.resume)) return Step(0);
  if (used) return Error(ErrorCode::invalid_argument, options.output + " holds an earlier run: give another --out");
  return copy_checkpoint(job, options);
}

}  // namespace

std::uint64_t next_fault_number(const json& status) {
  std::uint64_t next = 0;
  for (const json& fault : status.value("faults", json::array())) {
    const json number = fault.value("number", json());
    if (number.is_number_unsigned()) next = std::max(next, number.get<std::uint64_t>() + 1);
  }
  return next;
}

namespace {

// GPUs, each worker's in turn; empty: workers compute as the job says.
Result<std::vector<std::string>> devices_in_turn(const JobSpec& job) {
  PLANARIA_ASSIGN(const DeviceChoice choice, parse_device(job.cluster.device));
  std::vector<std::string> devices;
  if (choice.kind == DeviceKind::cpu) return devices;
  if (choice.index) return std::vector{to_string(choice)};
  const auto gpus = count_gpus();
  if (!gpus && choice.kind == DeviceKind::cuda) return gpus.error().within("cluster.device = \"cuda\"");
  for (std::uint32_t i = 0; gpus && i < *gpus; ++i) devices.push_back(to_string({DeviceKind::cuda, i}));
  return devices;
}

}  // namespace

Result<json> run_local_job(const JobSpec& job, const LocalJobOptions& options) {
  PLANARIA_ASSIGN(const auto ended, ended_already(job, options));
  if (ended) return summarize(job, options, *ended, {});
  OwnPart own;
  PLANARIA_ASSIGN(own.base, prepare_output(job, options));
  LocalRunOptions run_options;
  PLANARIA_ASSIGN(run_options.binary, own_executable());
  run_options.job_file = options.job_file;
  run_options.assignments = options.assignments;
  run_options.workers = job.cluster.workers;
  run_options.hosts = options.hosts;
  PLANARIA_ASSIGN(run_options.devices, devices_in_turn(job));
  run_options.output = options.output;
  run_options.scenario = options.scenario;
  const auto started = std::chrono::steady_clock::now();
  PLANARIA_ASSIGN(const auto run, LocalRun::start(std::move(run_options)));
  TerminalView view(stderr);
  const auto show = [&](const json& status) {
    std::vector<std::string> notes;
    for (const FiredFault& fault : own.progress.fired) notes.push_back(describe(fault));
    view.show(status, notes);
  };
  FaultTeller teller;
  do {
    std::this_thread::sleep_for(kLook);
    if (stop_requested()) run->stop();
    own.progress = run->progress();
    if (!own.progress.coordinator || own.progress.ended) continue;
    const HttpTarget coordinator{own.progress.coordinator->address,
                                 std::to_string(own.progress.coordinator->http_port)};
    teller.tell(own.progress, coordinator);
    if (!options.show) continue;
    if (const auto status = http_get(coordinator, "/v1/status", 200)) show(*status);
  } while (!own.progress.ended);
  run->wait();
  own.progress = run->progress();
  own.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  if (own.progress.failure) return *own.progress.failure;
  PLANARIA_ASSIGN(const json status, read_result(options.output));
  if (options.show) show(status);
  return summarize(job, options, status, own);
}

}  // namespace planaria
