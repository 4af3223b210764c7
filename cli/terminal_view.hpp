// The live view of a run in a terminal: progress, loss curve, workers and recoveries, drawn from the coordinator's
// status JSON. On something that isn't a terminal it prints a line now and then.
//
// Thread contract: one thread.
#pragma once

#include <cstdio>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace planaria {

// One frame as lines, at most `width` columns wide. `notes` are shown below (fired faults and the like).
[[nodiscard]] std::vector<std::string> draw_status(const nlohmann::json& status, const std::vector<std::string>& notes,
                                                   int width, bool colour);

class TerminalView {
 public:
  explicit TerminalView(FILE* out);
  ~TerminalView();
  TerminalView(const TerminalView&) = delete;
  TerminalView& operator=(const TerminalView&) = delete;

  void show(const nlohmann::json& status, const std::vector<std::string>& notes);

 private:
  void print_line(const nlohmann::json& status, const std::vector<std::string>& notes);

  FILE* out_;
  bool terminal_;
  std::size_t lines_drawn_ = 0;
  std::size_t notes_printed_ = 0;
  std::int64_t last_line_step_ = -1;
  std::string last_status_;
};

}  // namespace planaria
