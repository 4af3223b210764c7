#include "worker/shell/fault_hook.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "common/file.hpp"

namespace planaria {

namespace {

using fault_command::Direction;

Error refused(std::string why) {
  return {ErrorCode::invalid_argument, std::move(why)};
}

std::vector<std::string_view> split_words(std::string_view line) {
  std::vector<std::string_view> words;
  while (!line.empty()) {
    const std::size_t end = std::min(line.find(' '), line.size());
    if (end > 0) words.push_back(line.substr(0, end));
    line.remove_prefix(std::min(end + 1, line.size()));
  }
  return words;
}

template <class T>
Result<T> number(std::string_view word, const char* what, T min, T max) {
  T value{};
  const auto [end, failure] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (failure != std::errc() || end != word.data() + word.size() || !(value >= min && value <= max)) {
    return refused(std::string(what) + " can't be '" + std::string(word) + "'");
  }
  return value;
}

Result<Step> step_of(std::string_view word) {
  PLANARIA_ASSIGN(const auto value, number<std::uint64_t>(word, "a step", 1, UINT64_MAX / 2));
  return Step(value);
}

Result<WorkerId> peer_of(std::string_view word) {
  PLANARIA_ASSIGN(const auto value, number<std::uint32_t>(word, "a peer", 0, UINT32_MAX));
  return WorkerId(value);
}

Result<FaultCommand> parse_arm(std::span<const std::string_view> words) {
  PLANARIA_ASSIGN(const Step step, step_of(words[1]));
  for (const Phase phase :
       {Phase::fetch, Phase::forward, Phase::backward, Phase::reduce, Phase::gate, Phase::update, Phase::commit}) {
    if (words[2] == to_string(phase)) return FaultCommand(fault_command::Arm{step, phase});
  }
  return refused("a phase can't be '" + std::string(words[2]) +
                 "'; it is fetch, forward, backward, reduce, gate, update or commit");
}

Result<FaultCommand> parse_link(std::span<const std::string_view> words) {
  fault_command::Link link;
  if (words[1] != "*") {
    PLANARIA_ASSIGN(link.peer, peer_of(words[1]));
  }
  PLANARIA_ASSIGN(link.delay_ms, number<double>(words[2], "a delay", 0.0, 60000.0));
  PLANARIA_ASSIGN(link.loss, number<double>(words[3], "a loss", 0.0, 1.0));
  PLANARIA_ASSIGN(link.rate_mbit, number<double>(words[4], "a rate", 0.0, 1e9));
  PLANARIA_ASSIGN(link.corrupt, number<double>(words[5], "a probability", 0.0, 1.0));
  PLANARIA_ASSIGN(link.duplicate, number<double>(words[6], "a probability", 0.0, 1.0));
  if (words[7] != "in" && words[7] != "out" && words[7] != "both") {
    return refused("a direction can't be '" + std::string(words[7]) + "'; it is in, out or both");
  }
  link.direction = words[7] == "in" ? Direction::in : words[7] == "out" ? Direction::out : Direction::both;
  return FaultCommand(link);
}

Result<FaultCommand> parse_block(std::span<const std::string_view> words) {
  fault_command::Block block{.peer = std::nullopt, .blocked = words[0] == "block"};
  if (words[1] != "coordinator") {
    PLANARIA_ASSIGN(block.peer, peer_of(words[1]));
  }
  return FaultCommand(block);
}

Result<FaultCommand> parse_damage(std::span<const std::string_view> words) {
  const auto name = std::ranges::find(kFragmentDamageNames, words[1]);
  if (name == kFragmentDamageNames.end()) return refused("damage can't be '" + std::string(words[1]) + "'");
  return FaultCommand(fault_command::Damage{static_cast<FragmentDamage>(name - kFragmentDamageNames.begin())});
}

}  // namespace

Result<FaultCommand> parse_fault_command(std::string_view line) {
  struct Form {
    std::string_view name;
    std::size_t words;
  };
  static constexpr Form kForms[] = {{"arm", 3},     {"go", 1},           {"slow", 2}, {"link", 8},      {"block", 2},
                                    {"unblock", 2}, {"corrupt_next", 1}, {"nan", 2},  {"disk_full", 2}, {"damage", 2}};
  const auto words = split_words(line);
  if (words.empty()) return refused("an empty command");
  const auto* form =
      std::find_if(std::begin(kForms), std::end(kForms), [&](const Form& f) { return f.name == words[0]; });
  if (form == std::end(kForms)) return refused("no command is called '" + std::string(words[0]) + "'");
  if (words.size() != form->words) {
    return refused(fmt::format("'{}' takes {} words", words[0], form->words - 1));
  }
  if (words[0] == "arm") return parse_arm(words);
  if (words[0] == "link") return parse_link(words);
  if (words[0] == "block" || words[0] == "unblock") return parse_block(words);
  if (words[0] == "slow") {
    PLANARIA_ASSIGN(const double fraction, number<double>(words[1], "a fraction", 0.001, 1.0));
    return FaultCommand(fault_command::Slow{fraction});
  }
  if (words[0] == "nan") {
    PLANARIA_ASSIGN(const Step step, step_of(words[1]));
    return FaultCommand(fault_command::Nan{step});
  }
  if (words[0] == "disk_full") {
    PLANARIA_ASSIGN(const double seconds, number<double>(words[1], "a time", 0.0, 86400.0));
    return FaultCommand(fault_command::DiskFull{seconds});
  }
  if (words[0] == "damage") return parse_damage(words);
  if (words[0] == "go") return FaultCommand(fault_command::Go{});
  return FaultCommand(fault_command::CorruptNext{});
}

struct FaultHook::State {
  using Point = std::pair<Step, Phase>;

  int socket = -1;
  Handler handler;
  std::function<void()> on_go;
  std::thread thread;

  std::mutex mutex;
  std::condition_variable went_on;
  std::set<Point> armed;
  Point position{Step(0), Phase::idle};
  bool took_part = false;  // fetched state, or committed a step without
  std::uint64_t goes = 0;
  bool closed = false;
  std::mutex write_mutex;

  void say(const std::string& line) {
    const std::scoped_lock lock(write_mutex);
    const std::string text = line + "\n";
    std::size_t at = 0;
    while (at < text.size()) {
      const ssize_t sent = ::send(socket, text.data() + at, text.size() - at, MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent <= 0) return;  // chaos is gone; the reading side notices
      at += static_cast<std::size_t>(sent);
    }
  }

  // Armed points that are reached here; the mutex is held.
  std::vector<Point> take_reached(const Point& here) {
    std::vector<Point> reached;
    for (const Point& point : armed) {
      if (reaches(here, point)) reached.push_back(point);
    }
    for (const Point& point : reached) armed.erase(point);
    return reached;
  }

  [[nodiscard]] bool reaches(const Point& here, const Point& point) const {
    if (point.second != Phase::fetch) return point <= position;
    const bool first_commit = here.second == Phase::commit && !took_part;
    return (here.second == Phase::fetch || first_commit) && point.first <= here.first;
  }

  void announce(const Point& point) {
    say("phase " + std::to_string(point.first.value()) + " " + to_string(point.second));
  }
};

Result<std::unique_ptr<FaultHook>> FaultHook::connect(const std::string& socket_path, Handler handler,
                                                      std::function<void()> on_go) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof address.sun_path) {
    return refused("the fault hook's socket path is longer than " + std::to_string(sizeof address.sun_path - 1) +
                   " bytes: " + socket_path);
  }
  std::memcpy(address.sun_path, socket_path.c_str(), socket_path.size() + 1);
  auto state = std::make_unique<State>();
  state->handler = std::move(handler);
  state->on_go = std::move(on_go);
  state->socket = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (state->socket < 0) return file_error(errno, "make a socket for the fault hook", socket_path);
  if (::connect(state->socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int failure = errno;
    ::close(state->socket);
    return file_error(failure, "connect the fault hook to", socket_path);
  }
  state->say("hello " + std::to_string(::getpid()));
  std::unique_ptr<FaultHook> hook(new FaultHook(std::move(state)));
  hook->state_->thread = std::thread([raw = hook.get()] { raw->serve(); });
  return hook;
}

FaultHook::FaultHook(std::unique_ptr<State> state) : state_(std::move(state)) {}

FaultHook::~FaultHook() {
  ::shutdown(state_->socket, SHUT_RDWR);
  state_->thread.join();
  ::close(state_->socket);
}

void FaultHook::named(WorkerId worker, Incarnation incarnation) {
  state_->say("worker " + std::to_string(worker.value()) + " " + std::to_string(incarnation.value()));
}

bool FaultHook::entered(Step step, Phase phase) {
  std::vector<State::Point> reached;
  {
    const std::scoped_lock lock(state_->mutex);
    const State::Point here{step, phase};
    state_->position = std::max(state_->position, here);
    reached = state_->take_reached(here);
    state_->took_part = state_->took_part || phase == Phase::fetch || phase == Phase::commit;
  }
  for (const State::Point& point : reached) state_->announce(point);
  return !reached.empty();
}

void FaultHook::pass(Step step, Phase phase) {
  std::uint64_t before = 0;
  {
    const std::scoped_lock lock(state_->mutex);
    before = state_->goes;
  }
  if (!entered(step, phase)) return;
  std::unique_lock lock(state_->mutex);
  state_->went_on.wait_for(lock, kMaxFaultPause, [&] { return state_->closed || state_->goes != before; });
}

void FaultHook::serve() {
  std::string pending;
  char buffer[1024];
  while (true) {
    const ssize_t got = ::recv(state_->socket, buffer, sizeof buffer, 0);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    pending.append(buffer, static_cast<std::size_t>(got));
    std::size_t begin = 0;
    for (std::size_t end; (end = pending.find('\n', begin)) != std::string::npos; begin = end + 1) {
      handle_line(std::string_view(pending).substr(begin, end - begin));
    }
    pending.erase(0, begin);
    if (pending.size() > kMaxFaultLine) {
      state_->say("error a line is longer than " + std::to_string(kMaxFaultLine) + " bytes");
      break;
    }
  }
  {
    // Before on_go, so that who goes on isn't stopped once more at a point that nobody ends.
    const std::scoped_lock lock(state_->mutex);
    state_->armed.clear();
  }
  state_->on_go();  // nobody else will say it
  {
    const std::scoped_lock lock(state_->mutex);
    state_->closed = true;
  }
  state_->went_on.notify_all();
}

void FaultHook::handle_line(std::string_view line) {
  auto command = parse_fault_command(line);
  if (!command) {
    state_->say("error " + command.error().message());
    return;
  }
  if (const auto* arm = std::get_if<fault_command::Arm>(&*command)) {
    const State::Point point{arm->step, arm->phase};
    bool passed = false;
    {
      const std::scoped_lock lock(state_->mutex);
      passed = point.second != Phase::fetch && point <= state_->position;
      if (!passed) state_->armed.insert(point);
    }
    state_->say("ok " + std::string(line));
    if (passed) state_->announce(point);
    return;
  }
  if (std::holds_alternative<fault_command::Go>(*command)) {
    // on_go first: once pass() returns, everybody has been told to go on.
    state_->on_go();
    {
      const std::scoped_lock lock(state_->mutex);
      ++state_->goes;
    }
    state_->went_on.notify_all();
    return;
  }
  const Status done = state_->handler(*command);
  state_->say(done ? "ok " + std::string(line) : "error " + done.error().message());
}

}  // namespace planaria
