#include "cli/simulate_fleet.hpp"

#include <fmt/format.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "chaos/fleet/baseline_fleet.hpp"
#include "chaos/fleet/elastic_fleet.hpp"
#include "cli/arguments.hpp"
#include "common/enumerators.hpp"
#include "common/file.hpp"

namespace planaria {
namespace {

using fleet::Policy;

struct FleetArguments {
  std::vector<std::string> policies;
  fleet::FleetOptions fleet;
  fleet::TraceOptions trace;
  std::string trace_name = "poisson";
  double hours = 1;
  double step_s = 5;
  std::uint32_t lease_ms = 1000;
  double replaced_after_s = 60;
  std::string csv, save_trace;
};

Duration seconds(double value) {
  return Duration(static_cast<std::int64_t>(value * 1e9));
}

Result<fleet::CapacityTrace> trace_of(FleetArguments& arguments) {
  for (const fleet::TraceKind kind : enumerators<fleet::TraceKind>()) {
    if (arguments.trace_name != to_string(kind)) continue;
    arguments.trace.kind = kind;
    arguments.trace.workers = arguments.fleet.workers;
    arguments.trace.length = seconds(arguments.hours * 3600);
    arguments.trace.replaced_after = seconds(arguments.replaced_after_s);
    return fleet::draw_trace(arguments.trace);
  }
  PLANARIA_ASSIGN(fleet::CapacityTrace trace, fleet::load_trace(arguments.trace_name));
  arguments.fleet.workers = static_cast<std::uint32_t>(
      std::ranges::count_if(trace.events, [](const auto& event) { return event.joins && event.at == Duration(0); }));
  arguments.hours = to_seconds(trace.length) / 3600;
  if (arguments.fleet.workers == 0) {
    return Error(ErrorCode::invalid_argument, arguments.trace_name + ": no worker joins at 0.000 seconds");
  }
  return trace;
}

std::vector<Policy> policies_of(const FleetArguments& arguments) {
  std::vector<Policy> policies;
  for (const Policy policy : enumerators<Policy>()) {
    const bool named = std::ranges::find(arguments.policies, to_string(policy)) != arguments.policies.end();
    if (named || std::ranges::find(arguments.policies, "all") != arguments.policies.end()) policies.push_back(policy);
  }
  return policies;
}

void print_result(const fleet::FleetResult& result, double wall_s) {
  const auto percent = [&](double part) { return 100 * part / result.capacity; };
  const fleet::Losses& lost = result.losses;
  fmt::print(
      "{:<13} {:>6.2f} % of the possible in {} steps; lost: {:.2f} % absent, {:.2f} % spare, {:.2f} % view changes, "
      "{:.2f} % fetching, {:.2f} % recomputing, {:.2f} % uneven\n",
      result.policy, 100 * result.goodput(), result.steps, percent(lost.absent), percent(lost.spare),
      percent(lost.change), percent(lost.fetch), percent(lost.recompute), percent(lost.uneven));
  if (result.policy == to_string(Policy::planaria)) {
    fmt::print(
        "{:<13} {} views, {} of them planned; after a loss {:.2f} s from Prepare to commit (p95 {:.2f} s); {} went "
        "back behind a step; {:.1f} GB of state moved; a view has {:.1f} kB a member\n",
        "", result.views, result.planned_views, fleet::percentile(result.change_s, 0.5),
        fleet::percentile(result.change_s, 0.95), result.rollbacks, static_cast<double>(result.moved_bytes) / 1e9,
        fleet::percentile(result.view_bytes, 0.5) / 1e3);
  }
  if (!result.ended.empty()) fmt::print("{:<13} ended early: {}\n", "", result.ended);
  fmt::print("{:<13} simulated in {:.1f} s\n", "", wall_s);
}

// Views of thousands of members are made and let go all the time: what one leaves is for the next, not for the system,
// which would clear it each time.
void keep_freed_memory() {
  constexpr int kHeadroom = 256 << 20;
  constexpr int kLargestOfHeap = 32 << 20;  // the most that the C library takes
  mallopt(M_TOP_PAD, kHeadroom);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  mallopt(M_MMAP_THRESHOLD, kLargestOfHeap);
}

int simulate_fleet(FleetArguments arguments) {
  keep_freed_memory();
  arguments.fleet.step = seconds(arguments.step_s);
  arguments.fleet.lease = std::chrono::milliseconds(arguments.lease_ms);
  const auto trace = trace_of(arguments);
  if (!trace) return fail(trace.error());
  if (!arguments.save_trace.empty()) {
    const Status saved =
        write_file_atomically(posix_file_system(), arguments.save_trace, std::string_view(trace_to_csv(*trace)));
    if (!saved) return fail(saved.error());
  }
  if (trace->preemptions() > 0) {
    arguments.fleet.worker_life_h = trace->capacity() / 3600 / static_cast<double>(trace->preemptions());
  }
  const auto model = fleet::FleetModel::make(arguments.fleet);
  if (!model) return fail(model.error());
  const auto& best = model->best();
  fmt::print(
      "{} workers for {:.2f} h, {} preemptions, {:.0f} worker-hours; {:.2f} billion parameters; undisturbed a step "
      "takes {:.2f} s as {} ({:.2f} s computing)\n",
      arguments.fleet.workers, arguments.hours, trace->preemptions(), trace->capacity() / 3600,
      static_cast<double>(model->map().parameter_count()) / 1e9, model->step_s(), form_text(best.layout),
      best.prediction.compute_s);
  const fleet::RunLabel label{arguments.trace_name, arguments.trace.seed, arguments.fleet.workers, arguments.hours,
                              trace->preemptions()};
  std::string csv = fleet::csv_header() + "\n";
  const bool terminal = isatty(STDERR_FILENO) == 1;
  for (const Policy policy : policies_of(arguments)) {
    const auto began = std::chrono::steady_clock::now();
    const auto wall = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count(); };
    const auto progress = [&](Duration reached, std::uint64_t steps) {
      if (!terminal) return;
      fmt::print(stderr, "\r{}: {:.0f} of {:.0f} s, {} steps, {:.0f} s so far ", to_string(policy), to_seconds(reached),
                 to_seconds(trace->length), steps, wall());
    };
    const fleet::FleetResult result = policy == Policy::planaria ? fleet::run_elastic(*model, *trace, progress)
                                                                 : fleet::run_baseline(policy, *model, *trace);
    if (terminal) fmt::print(stderr, "\r\033[K");
    print_result(result, wall());
    csv += csv_row(label, result) + "\n";
  }
  if (arguments.csv.empty()) return 0;
  const Status saved = write_file_atomically(posix_file_system(), arguments.csv, std::string_view(csv));
  if (!saved) return fail(saved.error());
  fmt::print("written to {}\n", arguments.csv);
  return 0;
}

}  // namespace

FleetCommand add_fleet_options(CLI::App& command) {
  auto arguments = std::make_shared<FleetArguments>();
  auto asked = std::make_shared<bool>(false);
  const std::string group = "A large fleet (with --policy)";
  auto* policy = command
                     .add_option_function<std::vector<std::string>>(
                         "--policy",
                         [arguments, asked](const std::vector<std::string>& policies) {
                           arguments->policies = policies;
                           *asked = true;
                         },
                         "how the fleet lives with preemptions; several, or all, run the same trace")
                     ->delimiter(',')
                     ->check(CLI::IsMember({"planaria", "restart", "drop-replica", "spare", "all"}))
                     ->group(group);
  command.add_option("--fleet", arguments->fleet.workers, "workers of the undisturbed fleet")
      ->capture_default_str()
      ->transform(whole_number(2, 20'000))
      ->group(group);
  command
      .add_option("--trace-of", arguments->trace_name,
                  "poisson, bursty, outages, or a CSV file of joins and preemptions")
      ->capture_default_str()
      ->group(group);
  command.add_option("--hours", arguments->hours, "of a drawn trace")
      ->capture_default_str()
      ->check(number_between(0.001, 1000))
      ->group(group);
  command.add_option("--preemptions", arguments->trace.preemptions_per_s, "a second, of the whole fleet, on average")
      ->capture_default_str()
      ->check(number_between(1e-9, 1000))
      ->group(group);
  command
      .add_option("--replaced-after", arguments->replaced_after_s, "seconds until the cloud gives another, on average")
      ->capture_default_str()
      ->check(number_between(0.001, 1e6))
      ->group(group);
  command.add_option("--zones", arguments->trace.zones, "that fail as one in outages")
      ->capture_default_str()
      ->transform(whole_number(1, fleet::kMaxZones))
      ->group(group);
  command.add_option("--trace-seed", arguments->trace.seed, "of a drawn trace")
      ->capture_default_str()
      ->transform(whole_number(0, INT64_MAX))
      ->group(group);
  command.add_option("--step", arguments->step_s, "seconds of an undisturbed step")
      ->capture_default_str()
      ->check(number_between(0.01, 1e5))
      ->group(group);
  command.add_option("--lease-ms", arguments->lease_ms, "silence that a worker may keep")
      ->capture_default_str()
      ->transform(whole_number(40, 600'000))
      ->group(group);
  command
      .add_option("--silent", arguments->fleet.silent,
                  "part of the preempted that close no connection: the lease tells")
      ->capture_default_str()
      ->check(number_between(0, 1))
      ->group(group);
  command.add_option("--link-gbit", arguments->fleet.link_gbit, "of each worker's link and of the coordinator's")
      ->capture_default_str()
      ->check(number_between(0.001, 1e5))
      ->group(group);
  command.add_option("--memory-gib", arguments->fleet.memory_gib, "of a worker")
      ->capture_default_str()
      ->check(number_between(0.1, 1e5))
      ->group(group);
  command.add_option("--csv", arguments->csv, "write the results to this file")->group(group);
  command.add_option("--save-trace", arguments->save_trace, "write the trace to this file")->group(group);
  // Without it the protocol's seeds would run, whatever the fleet's options say.
  for (CLI::Option* option : command.get_options([&](const CLI::Option* o) { return o->get_group() == group; })) {
    if (option != policy) option->needs(policy);
  }
  return {asked, [arguments] { return simulate_fleet(*arguments); }};
}

}  // namespace planaria
