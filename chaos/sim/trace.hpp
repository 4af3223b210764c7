// What happened, in words, for a failing seed. Off in campaigns: texts are made only when somebody will read them.
//
// Thread contract: belongs to one simulation.
#pragma once

#include <deque>
#include <string>
#include <utility>

#include "common/clock.hpp"

namespace planaria::sim {

class Trace {
 public:
  explicit Trace(std::size_t keep) : keep_(keep) {}

  [[nodiscard]] bool on() const { return keep_ != 0; }

  // `make()` gives the text; called only when the trace is on.
  template <class Make>
  void add(Instant now, Make make) {
    if (!on()) return;
    lines_.push_back({now, make()});
    if (lines_.size() > keep_) lines_.pop_front();
  }

  struct Line {
    Instant at;
    std::string text;
  };
  [[nodiscard]] const std::deque<Line>& lines() const { return lines_; }

 private:
  std::size_t keep_;
  std::deque<Line> lines_;
};

}  // namespace planaria::sim
