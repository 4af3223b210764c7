#include "cli/terminal_view.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "cli/columns.hpp"

namespace planaria {
namespace {

using nlohmann::json;

constexpr std::size_t kRecoveriesShown = 4;
constexpr std::size_t kNotesShown = 4;

struct Palette {
  const char *bold, *dim, *good, *warn, *bad, *accent, *reset;
};
constexpr Palette kColours{"\033[1m", "\033[2m", "\033[32m", "\033[33m", "\033[31m", "\033[36m", "\033[0m"};
constexpr Palette kPlain{"", "", "", "", "", "", ""};

double number(const json& object, const char* key, double otherwise = 0) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<double>() : otherwise;
}

std::string text(const json& object, const char* key) {
  const auto found = object.find(key);
  std::string value = found != object.end() && found->is_string() ? found->get<std::string>() : "";
  // Reasons quote what peers and files say: nothing of it moves the cursor.
  std::ranges::replace_if(
      value, [](unsigned char c) { return c < 0x20 || c == 0x7F; }, ' ');
  return value;
}

std::string duration(double seconds) {
  if (seconds < 0) return "–";
  const auto whole = static_cast<long>(seconds);
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

std::string value_or_dash(const json& object, const char* key, const char* format) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return "–";
  return fmt::format(fmt::runtime(format), found->get<double>());
}

std::string bar(double share, int width) {
  static const char* const kParts[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  const double cells = std::clamp(share, 0.0, 1.0) * width;
  const int full = static_cast<int>(cells);
  std::string out;
  for (int i = 0; i < full; ++i) out += "█";
  const int part = static_cast<int>((cells - full) * 8);
  out += kParts[part];
  for (int i = full + (part > 0 ? 1 : 0); i < width; ++i) out += "·";
  return out;
}

std::string sparkline(const json& status, int width) {
  static const char* const kLevels[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  std::vector<double> losses;
  if (const auto history = status.find("history"); history != status.end() && history->is_array()) {
    for (const json& point : *history) losses.push_back(number(point, "loss"));
  }
  if (losses.size() < 2) return "";
  const auto [low, high] = std::ranges::minmax(losses);
  std::string out;
  const auto cells = std::min<std::size_t>(static_cast<std::size_t>(width), losses.size());
  for (std::size_t i = 0; i < cells; ++i) {
    const double loss = losses[i * (losses.size() - 1) / std::max<std::size_t>(cells - 1, 1)];
    const double level = high > low ? (loss - low) / (high - low) : 0;
    out += kLevels[std::min<int>(7, static_cast<int>(level * 8))];
  }
  return out;
}

const char* colour_of(const Palette& c, const std::string& status) {
  if (status == "member" || status == "training" || status == "finished") return c.good;
  if (status == "lost" || status == "failed") return c.bad;
  if (status == "left") return c.dim;
  return c.warn;
}

// [first, end), or twice 0.
std::pair<double, double> range(const json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_array() || found->size() != 2) return {0, 0};
  return {(*found)[0].get<double>(), (*found)[1].get<double>()};
}

void draw_workers(const json& status, const Palette& c, std::vector<std::string>& lines) {
  const auto workers = status.find("workers");
  if (workers == status.end() || !workers->is_array()) return;
  lines.push_back(
      fmt::format("{}  worker   state      phase      step   blocks  slots     micro-batches/s{}", c.dim, c.reset));
  const double slots_total = number(status, "slots", 0);
  for (const json& worker : *workers) {
    const std::string state = text(worker, "status");
    const auto [first_block, end_block] = range(worker, "blocks");
    const auto [begin, end] = range(worker, "slots");
    const std::string share =
        end > begin && slots_total > 0 ? fmt::format("{:>3.0f}/{:.0f}", end - begin, slots_total) : "–";
    const bool keeper = text(worker, "role") == "keeper";
    const std::string blocks = end_block > first_block ? fmt::format("{:.0f}-{:.0f}", first_block, end_block - 1)
                               : keeper                ? "keeper"
                                                       : "–";
    const bool member = state == "member" || state == "draining";
    lines.push_back(fmt::format("  {:>4.0f}     {}{:<10}{} {:<10} {:>4}   {:<7} {:<9} {:>8}", number(worker, "worker"),
                                colour_of(c, state), state, c.reset, member ? text(worker, "phase") : "",
                                member ? fmt::format("{:.0f}", number(worker, "step")) : "", member ? blocks : "",
                                member ? share : "",
                                member ? value_or_dash(worker, "micro_batches_per_s", "{:.1f}") : ""));
  }
}

void draw_snapshots(const json& status, const Palette& c, std::vector<std::string>& lines) {
  const auto snapshots = status.find("snapshots");
  if (snapshots == status.end() || !snapshots->is_object()) return;
  const json tolerated = snapshots->value("tolerated", json());
  std::string text = "not whole yet in this view: what a lost host kept may cost the steps since the checkpoint";
  if (tolerated.is_number_unsigned()) {
    const auto hosts = tolerated.get<std::uint64_t>();
    text = hosts == 0 ? "no host may be lost"
                      : fmt::format("any {} host{} may be lost at once", hosts, hosts == 1 ? "" : "s");
    const json alone = snapshots->value("alone", json::array());
    if (hosts == 0 && alone.is_array() && !alone.empty() && alone.front().is_string()) {
      text += fmt::format(": {} hold{} state that nobody else has",
                          alone.size() == 1 ? alone.front().get<std::string>() : fmt::format("{} hosts", alone.size()),
                          alone.size() == 1 ? "s" : "");
    }
    const json complete = snapshots->value("complete", json());
    if (complete.is_number_unsigned()) text += fmt::format("; snapshot {} is whole", complete.get<std::uint64_t>());
  }
  const double every = number(*snapshots, "every_steps");
  if (every > number(*snapshots, "wanted_every_steps"))
    text += fmt::format("; made each {:.0f} steps to save time", every);
  lines.push_back(fmt::format("  {}snapshots{} {}", c.dim, c.reset, text));
}

void draw_recoveries(const json& status, const Palette& c, std::vector<std::string>& lines) {
  const auto recoveries = status.find("recoveries");
  if (recoveries == status.end() || !recoveries->is_array()) return;
  std::size_t shown = 0;
  for (auto recovery = recoveries->rbegin(); recovery != recoveries->rend() && shown < kRecoveriesShown; ++recovery) {
    const json phases = recovery->value("phase_ms", json::object());
    std::string times;
    for (const char* phase : {"detect", "decide", "move", "recompute"}) {
      if (phases.contains(phase) && phases[phase].is_number()) {
        times += fmt::format(" {} {:.0f} ms", phase, phases[phase].get<double>());
      }
    }
    std::string line = fmt::format("  step {:>4.0f}  {}", number(*recovery, "at_step"), text(*recovery, "cause"));
    const double lost = number(*recovery, "lost_slots");
    if (lost > 0) line += fmt::format(" · {:.0f} slots computed anew", lost);
    if (!times.empty()) line += " ·" + times;
    if (shown++ == 0) lines.push_back(fmt::format("{}  changes, newest first{}", c.dim, c.reset));
    lines.push_back(line);
  }
}

}  // namespace

std::vector<std::string> draw_status(const json& status, const std::vector<std::string>& notes, int width,
                                     bool colour) {
  const Palette& c = colour ? kColours : kPlain;
  std::vector<std::string> lines;
  const std::string state = text(status, "status");
  const double step = number(status, "step");
  const double total = std::max(1.0, number(status, "total_steps", 1));
  lines.push_back(fmt::format("{}planaria{}  {}  {}{}{}  view {:.0f}  {}{}{}", c.bold, c.reset, text(status, "job"),
                              colour_of(c, state), state, c.reset, number(status, "view"), c.dim,
                              duration(number(status, "wall_s", -1)), c.reset));
  const int bar_width = std::clamp(width - 40, 10, 60);
  lines.push_back(fmt::format("  {}{}{}  step {:.0f}/{:.0f}  eta {}", c.accent, bar(step / total, bar_width), c.reset,
                              step, total, duration(number(status, "eta_s", -1))));
  lines.push_back(
      fmt::format("  loss {}{}{}   validation {}{}{}   {} tokens/s   lr {}   norm {}", c.bold,
                  value_or_dash(status, "loss", "{:.4f}"), c.reset, c.bold, value_or_dash(status, "val_loss", "{:.4f}"),
                  c.reset, value_or_dash(status, "tokens_per_s", "{:.0f}"),
                  value_or_dash(status, "learning_rate", "{:.2e}"), value_or_dash(status, "gradient_norm", "{:.2f}")));
  if (const std::string curve = sparkline(status, bar_width); !curve.empty()) {
    lines.push_back(fmt::format("  {}{}{}", c.accent, curve, c.reset));
  }
  if (state == "waiting" || state == "starting" || state == "failed" || state == "stopped") {
    lines.push_back(fmt::format("  {}{}{}", c.warn, text(status, "reason"), c.reset));
  }
  draw_workers(status, c, lines);
  draw_snapshots(status, c, lines);
  draw_recoveries(status, c, lines);
  for (std::size_t i = notes.size() > kNotesShown ? notes.size() - kNotesShown : 0; i < notes.size(); ++i) {
    lines.push_back(fmt::format("  {}⚡ {}{}", c.warn, notes[i], c.reset));
  }
  for (std::string& line : lines) line = clip_columns(line, width);
  return lines;
}

TerminalView::TerminalView(FILE* out) : out_(out), terminal_(isatty(fileno(out)) == 1) {}

TerminalView::~TerminalView() {
  if (terminal_ && lines_drawn_ > 0) std::fflush(out_);
}

void TerminalView::show(const json& status, const std::vector<std::string>& notes) {
  if (!terminal_) {
    print_line(status, notes);
    return;
  }
  winsize size{};
  const int width = ioctl(fileno(out_), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 100;
  const std::vector<std::string> lines = draw_status(status, notes, width, true);
  std::string frame;
  if (lines_drawn_ > 0) frame += fmt::format("\033[{}A", lines_drawn_);
  for (const std::string& line : lines) frame += "\033[2K" + line + "\n";
  frame += "\033[J";
  lines_drawn_ = lines.size();
  std::fputs(frame.c_str(), out_);
  std::fflush(out_);
}

void TerminalView::print_line(const json& status, const std::vector<std::string>& notes) {
  for (; notes_printed_ < notes.size(); ++notes_printed_) fmt::print(out_, "fault: {}\n", notes[notes_printed_]);
  const auto step = static_cast<std::int64_t>(number(status, "step"));
  const auto total = static_cast<std::int64_t>(number(status, "total_steps", 1));
  const std::string state = text(status, "status");
  const bool news = state != last_status_ || step / std::max<std::int64_t>(1, total / 20) !=
                                                 last_line_step_ / std::max<std::int64_t>(1, total / 20);
  if (!news) return;
  last_status_ = state;
  last_line_step_ = step;
  fmt::print(out_, "{}: step {}/{}, loss {}, validation {}, {} tokens/s, eta {}\n", state, step, total,
             value_or_dash(status, "loss", "{:.4f}"), value_or_dash(status, "val_loss", "{:.4f}"),
             value_or_dash(status, "tokens_per_s", "{:.0f}"), duration(number(status, "eta_s", -1)));
  std::fflush(out_);
}

}  // namespace planaria
