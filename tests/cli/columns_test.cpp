#include "cli/columns.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/terminal_view.hpp"

namespace planaria {
namespace {

TEST(Columns, CharactersCountAsTheyShow) {
  EXPECT_EQ(columns("abc"), 3);
  EXPECT_EQ(columns("·–█"), 3);
  EXPECT_EQ(columns("⚡模型"), 6);
  EXPECT_EQ(columns("\033[32mok\033[0m"), 2);
  EXPECT_EQ(columns("\xff\xe2\x96"), 3);  // no UTF-8
}

TEST(Columns, AClippedLineEndsBetweenCharacters) {
  EXPECT_EQ(clip_columns("abc", 3), "abc");
  EXPECT_EQ(clip_columns("abcd", 3), "ab…");
  EXPECT_EQ(clip_columns("···· more", 4), "···…");
  EXPECT_EQ(clip_columns("a模型", 3), "a…");  // the wide one would need the column of the mark
  EXPECT_EQ(clip_columns("\033[32mgreen\033[0m", 3), "\033[32mgr…\033[0m");
  EXPECT_EQ(clip_columns("abc", 0), "");
}

TEST(TerminalView, NoLineIsWiderThanTheTerminal) {
  const auto status = nlohmann::json::parse(R"({
    "job": "a-job-of-a-rather-long-name", "status": "failed", "slots": 32,
    "reason": "worker 1 said\nsomething that is longer than any terminal is wide",
    "workers": [{"worker": 1, "status": "member", "phase": "forward", "step": 7, "slots": [0, 32]}],
    "recoveries": [{"at_step": 7, "cause": "worker 2 lost: it was silent for 600 ms", "lost_slots": 3}]})");
  for (const int width : {20, 45, 80}) {
    for (const std::string& line : draw_status(status, {"kill worker 1 at step 3, backward"}, width, true)) {
      EXPECT_LE(columns(line), width) << line;
      EXPECT_EQ(line.find('\n'), std::string::npos) << line;
    }
  }
}

}  // namespace
}  // namespace planaria
