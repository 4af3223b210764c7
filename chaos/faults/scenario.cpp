#include "chaos/faults/scenario.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "common/config.hpp"

namespace planaria {
namespace {

constexpr auto kKinds = std::to_array<std::string_view>(
    {"kill", "stop", "continue", "drain", "join", "slow", "partition", "heal", "link", "corrupt", "nan", "disk_full",
     "kill_coordinator", "kill_host", "kill_keeper", "damage_fragment"});
static_assert(kKinds.size() == static_cast<std::size_t>(FaultKind::count_));

// In the order of Phase, from fetch to commit.
constexpr std::array<std::string_view, 7> kPhases = {"fetch", "forward", "backward", "reduce",
                                                     "gate",  "update",  "commit"};

constexpr double kMaxSeconds = 86'400;

bool needs_host(FaultKind kind) {
  return kind == FaultKind::kill_host || kind == FaultKind::kill_keeper || kind == FaultKind::damage_fragment;
}

bool needs_worker(FaultKind kind) {
  switch (kind) {
    case FaultKind::kill:
    case FaultKind::stop:
    case FaultKind::cont:
    case FaultKind::drain:
    case FaultKind::slow:
    case FaultKind::corrupt:
    case FaultKind::nan:
      return true;
    default:
      return false;
  }
}

void read_end(ConfigReader& reader, std::string_view key, std::optional<std::uint32_t>& out) {
  std::string text;
  if (!reader.key(key, text)) return;
  if (text == "coordinator") {
    out = kCoordinatorEnd;
    return;
  }
  std::uint32_t worker = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), worker);
  if (error != std::errc() || end != text.data() + text.size()) {
    reader.refuse(key, "expected a worker's number in quotes or \"coordinator\"");
  } else {
    out = worker;
  }
}

Fault read_fault(ConfigReader& reader) {
  Fault fault;
  if (!reader.key("kind", fault.kind, std::span(kKinds))) reader.refuse("kind", "every fault has a kind");
  std::uint64_t step = 0;
  if (reader.key("at_step", step, {.min = 1})) fault.at_step = step;
  enum class Named : std::uint8_t { first };
  Named named{};
  if (reader.key("phase", named, std::span(kPhases))) {
    fault.phase = static_cast<Phase>(static_cast<std::size_t>(Phase::fetch) + static_cast<std::size_t>(named));
    if (!fault.at_step) reader.refuse("phase", "a phase goes with at_step");
  }
  double seconds = 0;
  if (reader.key("at_s", seconds, {0, kMaxSeconds})) fault.at_s = seconds;
  std::uint32_t worker = 0;
  if (reader.key("worker", worker, {.min = 0, .max = UINT32_MAX - 1})) fault.worker = worker;
  std::uint32_t host = 0;
  if (reader.key("host", host, {.min = 0, .max = UINT32_MAX - 1})) fault.host = host;
  reader.key("how", fault.how, std::span(kFragmentDamageNames));
  std::uint32_t observer = 0;
  if (reader.key("observer", observer, {.min = 0, .max = UINT32_MAX - 1})) {
    fault.observer = observer;
    if (!fault.at_step) reader.refuse("observer", "an observer goes with at_step");
  }
  reader.key("for_s", fault.for_s, {0, kMaxSeconds});
  reader.key("cpu_fraction", fault.cpu_fraction, {0.01, 1});
  read_end(reader, "from", fault.from);
  read_end(reader, "to", fault.to);
  reader.key("delay_ms", fault.delay_ms, {0, 60'000});
  reader.key("loss", fault.loss, {0, 1});
  reader.key("rate_mbit", fault.rate_mbit, {0, 1e6});

  if (fault.at_step.has_value() == fault.at_s.has_value()) reader.refuse("kind", "give at_step or at_s, one of them");
  if (needs_worker(fault.kind) && !fault.worker) reader.refuse("kind", "this fault needs a worker");
  if (needs_host(fault.kind) && !fault.host) reader.refuse("kind", "this fault needs a host");
  const bool two_ends = fault.kind == FaultKind::partition || fault.kind == FaultKind::link;
  if (two_ends && (!fault.from || !fault.to)) reader.refuse("kind", "this fault needs from and to");
  if (fault.kind == FaultKind::link && (fault.from == kCoordinatorEnd || fault.to == kCoordinatorEnd)) {
    reader.refuse("kind", "a link joins two workers; use partition for the coordinator");
  }
  if (two_ends && fault.from && fault.from == fault.to) reader.refuse("kind", "from and to are the same");
  return fault;
}

Result<Scenario> read_scenario(ConfigReader& reader) {
  Scenario scenario;
  reader.each("fault", [&](ConfigReader& table, std::size_t number) {
    if (number < kMaxFaults) scenario.faults.push_back(read_fault(table));
    if (number == kMaxFaults) table.refuse("kind", fmt::format("a scenario has at most {} faults", kMaxFaults));
  });
  PLANARIA_TRY(reader.finish());
  return scenario;
}

}  // namespace

const char* to_string(FaultKind kind) {
  return kind < FaultKind::count_ ? kKinds[static_cast<std::size_t>(kind)].data() : "unknown";
}

Result<Scenario> load_scenario(const std::string& path) {
  PLANARIA_ASSIGN(ConfigReader reader, ConfigReader::from_file(path));
  return read_scenario(reader);
}

Result<Scenario> parse_scenario(std::string_view text, std::string source) {
  PLANARIA_ASSIGN(ConfigReader reader, ConfigReader::from_text(text, std::move(source)));
  return read_scenario(reader);
}

std::vector<std::string> never_strike(const Scenario& scenario, std::uint32_t workers, std::uint32_t hosts,
                                      std::uint64_t steps) {
  const auto joiners = std::ranges::count(scenario.faults, FaultKind::join, &Fault::kind);
  const std::uint64_t started = workers + static_cast<std::uint64_t>(joiners);
  std::vector<std::string> told;
  for (std::size_t i = 0; i < scenario.faults.size(); ++i) {
    const Fault& fault = scenario.faults[i];
    const auto tell = [&](const std::string& why) {
      told.push_back(fmt::format("fault {} ({}) can't strike: {}", i + 1, to_string(fault.kind), why));
    };
    if (fault.at_step && *fault.at_step > steps) {
      tell(fmt::format("it waits for step {}, and the job has {}", *fault.at_step, steps));
    }
    if (fault.host && *fault.host >= hosts) {
      tell(hosts == 0 ? "hosts with keepers come with --hosts"
                      : fmt::format("there is no host {}: there are {}, numbered from 0", *fault.host, hosts));
    }
    for (const auto& end : {fault.worker, fault.observer, fault.from, fault.to}) {
      if (!end || *end == kCoordinatorEnd || *end < started) continue;
      tell(fmt::format("there is no worker {}: {} are started, numbered from 0", *end, started));
    }
  }
  return told;
}

std::string scenario_to_toml(const Scenario& scenario) {
  const Fault defaults;
  const auto end = [](std::uint32_t at) {
    return at == kCoordinatorEnd ? std::string("coordinator") : std::to_string(at);
  };
  std::string text;
  for (const Fault& fault : scenario.faults) {
    text += fmt::format("[[fault]]\nkind = \"{}\"\n", to_string(fault.kind));
    if (fault.at_step)
      text += fmt::format("at_step = {}\nphase = \"{}\"\n", *fault.at_step, planaria::to_string(fault.phase));
    if (fault.at_s) text += fmt::format("at_s = {:f}\n", *fault.at_s);
    if (fault.worker) text += fmt::format("worker = {}\n", *fault.worker);
    if (fault.host) text += fmt::format("host = {}\n", *fault.host);
    if (fault.how != defaults.how) text += fmt::format("how = \"{}\"\n", planaria::to_string(fault.how));
    if (fault.observer) text += fmt::format("observer = {}\n", *fault.observer);
    if (fault.for_s != defaults.for_s) text += fmt::format("for_s = {:f}\n", fault.for_s);
    if (fault.cpu_fraction != defaults.cpu_fraction) text += fmt::format("cpu_fraction = {:f}\n", fault.cpu_fraction);
    if (fault.from) text += fmt::format("from = \"{}\"\n", end(*fault.from));
    if (fault.to) text += fmt::format("to = \"{}\"\n", end(*fault.to));
    if (fault.delay_ms != 0) text += fmt::format("delay_ms = {:f}\n", fault.delay_ms);
    if (fault.loss != 0) text += fmt::format("loss = {:f}\n", fault.loss);
    if (fault.rate_mbit != 0) text += fmt::format("rate_mbit = {:f}\n", fault.rate_mbit);
    text += '\n';
  }
  return text;
}

}  // namespace planaria
