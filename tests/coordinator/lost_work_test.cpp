#include "coordinator/core/lost_work.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/small_model.hpp"

namespace planaria {
namespace {

using testing::ElementsAre;
using Candidate = LostWork::Candidate;

// Two workers that compute a slot of all blocks in a second; worker 1 has a slot left to do of its own.
class LostWorkTest : public testing::Test {
 protected:
  const StateMap map_{small_model(2), 512};
  const std::vector<double> shares_{0.25, 0.25, 0.25, 0.25};
  LostWork lost_{map_, {shares_, 1, 1e12}, {{WorkerId(0), 1, 0}, {WorkerId(1), 1, 1}}};
};

TEST_F(LostWorkTest, GoesToWhoeverWouldBeDoneFirst) {
  const auto shared = lost_.share({{0, 4}, {0, 7}}, [](std::uint32_t) {
    return std::vector<Candidate>{{0, 0}, {1, 0}};
  });
  EXPECT_THAT(shared, ElementsAre(std::pair(WorkerId(0), StageWork{{0, 4}, {0, 4}}),
                                  std::pair(WorkerId(1), StageWork{{0, 4}, {4, 7}})));
}

TEST_F(LostWorkTest, WhoFetchesTakesLessAndTheLastSlots) {
  const auto shared = lost_.share({{0, 4}, {0, 7}}, [](std::uint32_t) {
    return std::vector<Candidate>{{0, 3}, {1, 0}};
  });
  EXPECT_THAT(shared, ElementsAre(std::pair(WorkerId(1), StageWork{{0, 4}, {0, 4}}),
                                  std::pair(WorkerId(0), StageWork{{0, 4}, {4, 7}})));
}

TEST_F(LostWorkTest, WhoFetchesForTooLongDoesNotCutTheWork) {
  const auto shared = lost_.share({{0, 4}, {0, 7}}, [](std::uint32_t block) {
    return block < 2 ? std::vector<Candidate>{{1, 0}} : std::vector<Candidate>{{0, 8}, {1, 0}};
  });
  EXPECT_THAT(shared, ElementsAre(std::pair(WorkerId(1), StageWork{{0, 4}, {0, 7}})));
}

}  // namespace
}  // namespace planaria
