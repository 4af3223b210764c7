#include "cli/event_list.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

TEST(EventList, ARecordIsOneLineWithItsFields) {
  const LogEntry entry{17, 1'700'000'000'250, log_record::Prepared{ViewNumber(2), {WorkerId(3)}, "lost\nfor ever"}};
  EXPECT_EQ(event_line(entry),
            "    17  2023-11-14 22:13:20.250  view prepared      excluded=[3] reason=\"lost\\nfor ever\" view=2");
}

TEST(EventList, ADirectoryWithoutALogIsAnError) {
  EXPECT_NE(show_event_list("/nonexistent", false), 0);
}

}  // namespace
}  // namespace planaria
