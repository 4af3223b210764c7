#include "chaos/fleet/capacity_trace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <queue>
#include <system_error>

#include "common/file.hpp"
#include "common/philox.hpp"

namespace planaria::fleet {
namespace {

class Drawing {
 public:
  explicit Drawing(const TraceOptions& options) : options_(options), random_(options.seed) {}

  CapacityTrace draw() {
    for (std::uint32_t i = 0; i < options_.workers; ++i) join(0, i % options_.zones);
    double storm_changes = options_.kind == TraceKind::bursty ? exponential(calm_s()) : kNever;
    double outage = options_.kind == TraceKind::outages ? exponential(to_seconds(options_.between_outages)) : kNever;
    const double end = to_seconds(options_.length);
    double preemption = exponential(1 / rate());
    while (true) {
      const double back = returns_.empty() ? kNever : returns_.top().at;
      const double next = std::min({preemption, storm_changes, outage, back});
      if (next >= end) break;
      if (next == back) {
        const Return returned = returns_.top();
        returns_.pop();
        join(back, returned.zone);
      } else if (next == preemption) {
        preempt_any(next);
        preemption = next + exponential(1 / rate());
      } else if (next == storm_changes) {
        storm_ = !storm_;
        storm_changes = next + exponential(storm_ ? to_seconds(options_.storm_lasts) : calm_s());
        preemption = next + exponential(1 / rate());  // the process has no memory
      } else {
        lose_zone(next);
        outage = next + exponential(to_seconds(options_.between_outages));
      }
    }
    return {std::move(events_), options_.length, options_.zones};
  }

 private:
  static constexpr double kCalmRate = 0.25;  // of the average, between storms

  struct Return {
    double at = 0;
    std::uint64_t order = 0;
    std::uint32_t zone = 0;
    bool operator>(const Return& other) const { return at != other.at ? at > other.at : order > other.order; }
  };
  struct Worker {
    std::uint32_t id = 0;
    std::uint32_t zone = 0;
  };

  double uniform() { return 1.0 - random_.unit_double(); }
  double exponential(double mean) { return -std::log(uniform()) * mean; }

  [[nodiscard]] double rate() const {
    if (options_.kind != TraceKind::bursty) return options_.preemptions_per_s;
    return options_.preemptions_per_s * (storm_ ? options_.storm_factor : kCalmRate);
  }
  // So long that the average comes out.
  [[nodiscard]] double calm_s() const {
    return to_seconds(options_.storm_lasts) * (options_.storm_factor - 1) / (1 - kCalmRate);
  }

  void record(double at, bool joins, const Worker& worker) {
    events_.push_back({Duration(static_cast<std::int64_t>(at * 1e9)), joins, worker.id, worker.zone});
  }
  void join(double at, std::uint32_t zone) {
    if (next_ == kMaxTraceWorkers) return;
    there_.push_back({next_++, zone});
    record(at, true, there_.back());
  }
  void preempt_any(double at) {
    if (there_.empty()) return;
    preempt(at, random_.below(there_.size()), exponential(to_seconds(options_.replaced_after)));
  }
  void preempt(double at, std::size_t index, double back_after) {
    const Worker gone = there_[index];
    there_[index] = there_.back();
    there_.pop_back();
    record(at, false, gone);
    returns_.push({at + back_after, order_++, gone.zone});
  }
  void lose_zone(double at) {
    const auto zone = static_cast<std::uint32_t>(random_.below(options_.zones));
    for (std::size_t i = there_.size(); i > 0; --i) {
      if (there_[i - 1].zone != zone) continue;
      preempt(at, i - 1, to_seconds(options_.outage_lasts) + exponential(to_seconds(options_.replaced_after)));
    }
  }

  const TraceOptions options_;
  PhiloxStream random_;
  std::vector<CapacityEvent> events_;
  std::vector<Worker> there_;
  std::priority_queue<Return, std::vector<Return>, std::greater<>> returns_;
  std::uint64_t order_ = 0;
  std::uint32_t next_ = 0;
  bool storm_ = false;
};

constexpr std::string_view kHeader = "seconds,event,worker,zone";

template <class T>
bool read_number(std::string_view text, T& value) {
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  return failure == std::errc() && end == text.data() + text.size();
}

std::string_view take(std::string_view& text, char until) {
  const std::size_t end = std::min(text.find(until), text.size());
  const std::string_view taken = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return taken;
}

std::optional<CapacityEvent> parse_event(std::string_view line) {
  double seconds = 0;
  CapacityEvent event;
  const std::string_view at = take(line, ',');
  const std::string_view what = take(line, ',');
  const std::string_view worker = take(line, ',');
  const bool sound = read_number(at, seconds) && seconds >= 0 && seconds <= 1e8 &&
                     (what == "join" || what == "preempt") && read_number(worker, event.worker) &&
                     event.worker < kMaxTraceWorkers && read_number(line, event.zone) && event.zone < kMaxZones;
  if (!sound) return std::nullopt;
  event.at = Duration(static_cast<std::int64_t>(seconds * 1e9));
  event.joins = what == "join";
  return event;
}

}  // namespace

const char* to_string(TraceKind kind) {
  switch (kind) {
    case TraceKind::poisson:
      return "poisson";
    case TraceKind::bursty:
      return "bursty";
    case TraceKind::outages:
      return "outages";
    case TraceKind::count_:
      break;
  }
  return "unknown";
}

std::uint32_t CapacityTrace::workers() const {
  std::uint32_t count = 0;
  for (const CapacityEvent& event : events) count = std::max(count, event.worker + 1);
  return count;
}

double CapacityTrace::capacity() const {
  double sum = 0;
  for (const CapacityEvent& event : events) {
    const double left = to_seconds(length - event.at);
    sum += event.joins ? left : -left;
  }
  return sum;
}

std::uint64_t CapacityTrace::preemptions() const {
  return static_cast<std::uint64_t>(std::ranges::count(events, false, &CapacityEvent::joins));
}

CapacityTrace draw_trace(const TraceOptions& options) {
  return Drawing(options).draw();
}

Result<CapacityTrace> parse_trace(std::string_view csv, const std::string& source) {
  const auto wrong = [&](std::size_t line, const std::string& what) {
    return Error(ErrorCode::invalid_argument, fmt::format("{}:{}: {}", source, line, what));
  };
  if (csv.size() > kMaxTraceBytes) return wrong(1, fmt::format("longer than {} bytes", kMaxTraceBytes));
  std::size_t number = 1;
  if (take(csv, '\n') != kHeader) return wrong(number, fmt::format("the first line must be '{}'", kHeader));
  enum class Life : std::uint8_t { unborn, there, gone };
  std::vector<Life> lives;
  CapacityTrace trace;
  while (!csv.empty()) {
    const std::string_view line = take(csv, '\n');
    ++number;
    if (line.empty()) continue;
    const auto event = parse_event(line);
    if (!event) {
      return wrong(number, fmt::format("expected seconds,join|preempt,worker below {},zone below {}; found '{}'",
                                       kMaxTraceWorkers, kMaxZones, line.substr(0, 80)));
    }
    if (event->at < trace.length) return wrong(number, "earlier than the line before");
    if (event->worker >= lives.size()) lives.resize(event->worker + 1, Life::unborn);
    Life& life = lives[event->worker];
    if (life != (event->joins ? Life::unborn : Life::there)) {
      return wrong(number, fmt::format("worker {} {}", event->worker,
                                       event->joins ? "joined before" : "isn't there to be preempted"));
    }
    life = event->joins ? Life::there : Life::gone;
    trace.length = event->at;
    trace.zones = std::max(trace.zones, event->zone + 1);
    trace.events.push_back(*event);
  }
  if (trace.events.empty()) return wrong(number, "no events");
  return trace;
}

Result<CapacityTrace> load_trace(const std::string& path) {
  PLANARIA_ASSIGN(const std::string text, read_file(posix_file_system(), path, kMaxTraceBytes));
  return parse_trace(text, path);
}

std::string trace_to_csv(const CapacityTrace& trace) {
  std::string csv = std::string(kHeader) + "\n";
  for (const CapacityEvent& event : trace.events) {
    csv += fmt::format("{:.6f},{},{},{}\n", to_seconds(event.at), event.joins ? "join" : "preempt", event.worker,
                       event.zone);
  }
  return csv;
}

}  // namespace planaria::fleet
