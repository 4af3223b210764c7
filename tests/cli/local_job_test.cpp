#include "cli/local_job.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

TEST(LocalJob, FaultsOfAResumedRunAreNumberedAfterTheEarlierOnes) {
  using nlohmann::json;
  EXPECT_EQ(next_fault_number(json::parse(R"({"faults": []})")), 0U);
  EXPECT_EQ(next_fault_number(json::parse(R"({"faults": [{"number": 4}, {"number": 2}]})")), 5U);
  EXPECT_EQ(next_fault_number(json::object()), 0U);
}

}  // namespace
}  // namespace planaria
