#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

#include "cli/arguments.hpp"
#include "cli/commands.hpp"
#include "cli/run_directory.hpp"
#include "cli/snapshot_list.hpp"
#include "storage/durable_catalog.hpp"

namespace planaria {
namespace {

struct SnapshotArguments {
  std::string run;
  std::string root;  // of the keepers' directories; empty: the run's
  std::string out;   // of checkpoints; empty: the run's
  std::optional<std::uint64_t> step;
  bool as_json = false;
};

// A run's job and what its keepers have on disk.
struct RunSnapshots {
  JobSpec job;
  StateMap map;
  Hash128 hash;
  std::string root;
  DurableCatalog catalog;
};

Result<RunSnapshots> open_snapshots(const SnapshotArguments& arguments) {
  PLANARIA_ASSIGN(JobSpec job, open_run_job(arguments.run));
  const StateMap map(job.model, job.train.tile_elements);
  const Hash128 hash = job_hash(job);
  const std::string root = arguments.root.empty() ? join_path(arguments.run, "snapshots") : arguments.root;
  if (!arguments.root.empty()) {
    PLANARIA_ASSIGN([[maybe_unused]] const FileInfo info, posix_file_system().info(root));
  }
  PLANARIA_ASSIGN(DurableCatalog catalog, read_catalog(posix_file_system(), root, map, hash));
  return RunSnapshots{std::move(job), map, hash, root, std::move(catalog)};
}

// Names in damaged records may be any bytes.
std::string json_text(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

int list(const SnapshotArguments& arguments) {
  const auto run = open_snapshots(arguments);
  if (!run) return fail(run.error());
  if (arguments.as_json) {
    fmt::print("{}\n", json_text(snapshot_table_json(run->catalog, run->map)));
  } else if (run->catalog.snapshots.empty() && run->catalog.refused.empty()) {
    fmt::print("no durable snapshots in {}\n", run->root);
  } else {
    fmt::print("{}", snapshot_table(run->catalog, run->map));
  }
  return static_cast<int>(ExitCode::ok);
}

int verify(const SnapshotArguments& arguments) {
  const auto run = open_snapshots(arguments);
  if (!run) return fail(run.error());
  const auto wanted = arguments.step ? std::optional(Step(*arguments.step)) : std::nullopt;
  if (const auto found = find_complete(run->catalog, wanted); !found) return fail(found.error());
  bool sound = run->catalog.refused.empty();
  nlohmann::json verdicts = nlohmann::json::array();
  for (const DurableSnapshot& snapshot : run->catalog.snapshots) {
    // What isn't complete is being written, or will be removed.
    if (!snapshot.complete() || (wanted && snapshot.name.step != *wanted)) continue;
    const DurableVerdict verdict = verify_snapshot(posix_file_system(), run->map, run->hash, snapshot);
    sound = sound && verdict.sound();
    if (arguments.as_json) {
      verdicts.push_back(verdict_json(snapshot, verdict));
    } else {
      fmt::print("{}", verdict_text(snapshot, verdict));
    }
  }
  if (arguments.as_json) fmt::print("{}\n", json_text({{"snapshots", std::move(verdicts)}, {"sound", sound}}));
  for (const Refusal& refusal : run->catalog.refused) {
    fmt::print(stderr, "planaria: not read: {}\n", refusal.reason.message());
  }
  return static_cast<int>(sound ? ExitCode::ok : ExitCode::data);
}

int tell_restored(const SnapshotArguments& arguments, const DurableSnapshot& snapshot,
                  const WrittenCheckpoint& written) {
  if (arguments.as_json) {
    fmt::print("{}\n", json_text({{"step", snapshot.name.step.value()},
                                  {"view", snapshot.name.layout.value()},
                                  {"checkpoint", written.path},
                                  {"bytes", written.bytes},
                                  {"weights_hash", written.weights_hash.hex()},
                                  {"was_there", written.was_there}}));
  } else {
    fmt::print("step {}, view {}: {} in {}{}\nweights {}\n", snapshot.name.step.value(), snapshot.name.layout.value(),
               bytes_text(written.bytes), written.path, written.was_there ? ", which was there already" : "",
               written.weights_hash.hex());
  }
  return static_cast<int>(ExitCode::ok);
}

int restore(const SnapshotArguments& arguments) {
  const auto run = open_snapshots(arguments);
  if (!run) return fail(run.error());
  WriteOptions options;
  options.root = arguments.out.empty() ? join_path(arguments.run, "checkpoints") : arguments.out;
  options.keep = 0;
  options.writer = "restore";
  const auto wanted = arguments.step ? std::optional(Step(*arguments.step)) : std::nullopt;
  const auto newest = find_complete(run->catalog, wanted);
  if (!newest) return fail(newest.error());
  std::optional<Error> refused;
  for (const DurableSnapshot& snapshot : run->catalog.snapshots) {
    if (!snapshot.complete() || (wanted && snapshot.name.step != *wanted)) continue;
    const auto written = restore_snapshot(posix_file_system(), options, run->hash, run->job.model, run->map, snapshot);
    if (written) return tell_restored(arguments, snapshot, *written);
    // Only damage is worth a try with an older one.
    if (written.error().code() != ErrorCode::corrupt) return fail(written.error());
    fmt::print(stderr, "planaria: step {} is damaged and was passed over: {}\n", snapshot.name.step.value(),
               written.error().message());
    refused = written.error();
  }
  return fail(refused->within("no snapshot could be restored"));
}

CLI::App* add_command(CLI::App& app, const char* name, const char* about, const char* footer,
                      const std::shared_ptr<SnapshotArguments>& arguments) {
  auto* command = app.add_subcommand(name, about);
  command->footer(footer);
  command->add_option("RUN_DIR", arguments->run, "a run's directory")->required();
  command->add_option("--root", arguments->root, "where the keepers' directories lie; default RUN_DIR/snapshots");
  command->add_flag("--json", arguments->as_json, "one JSON object");
  return command;
}

}  // namespace

void add_snapshot(CLI::App& app, int& code) {
  auto* command = app.add_subcommand("snapshot", "List, verify and restore durable snapshots of a run");
  command->require_subcommand(1);
  command->footer(
      "Examples:\n  planaria snapshot list runs/quickstart\n  planaria snapshot verify runs/quickstart --step 120\n"
      "  planaria snapshot restore runs/quickstart --out restored\n\n"
      "They only read, also while keepers write. What is durable when: docs/OPERATING.md, \"Durable snapshots\".");

  const auto arguments = std::make_shared<SnapshotArguments>();
  auto* lists = add_command(*command, "list", "What there is, and what is missing of it",
                            "Example:\n  planaria snapshot list runs/quickstart --json", arguments);
  lists->callback([arguments, &code] { code = list(*arguments); });

  auto* verifies = add_command(*command, "verify", "Hash every tile of complete snapshots",
                               "Examples:\n  planaria snapshot verify runs/quickstart\n"
                               "  planaria snapshot verify runs/quickstart --step 120\n\n"
                               "Exit code 3 when anything is damaged, or nothing complete.",
                               arguments);
  verifies->add_option("--step", arguments->step, "of this step only")->transform(whole_number());
  verifies->callback([arguments, &code] { code = verify(*arguments); });

  auto* restores = add_command(*command, "restore", "Make a checkpoint of a complete snapshot",
                               "Examples:\n  planaria snapshot restore runs/quickstart\n"
                               "  planaria snapshot restore runs/quickstart --step 120 --out restored\n\n"
                               "The checkpoint is one like any other: a run resumes from it, `export` reads it.",
                               arguments);
  restores->add_option("--step", arguments->step, "of this step; default the newest that is complete and sound")
      ->transform(whole_number());
  restores->add_option("--out", arguments->out, "directory of checkpoints; default RUN_DIR/checkpoints");
  restores->callback([arguments, &code] { code = restore(*arguments); });
}

}  // namespace planaria
