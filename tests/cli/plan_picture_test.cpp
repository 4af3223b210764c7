#include "cli/plan_picture.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "coordinator/planner/cluster_file.hpp"

namespace planaria {
namespace {

using ::testing::HasSubstr;

class PlanPicture : public ::testing::Test {
 protected:
  void SetUp() override {
    JobSpec job;
    model = model_profile(job, StateMap(job.model, job.train.tile_elements), 50e9);
    auto file = parse_cluster("[[worker]]\ncount = 3\n", "c.toml");
    ASSERT_TRUE(file) << file.error().message();
    cluster = file->cluster;
    PlanOptions options;
    options.forced_depths = {2, 1};
    auto made = plan_layout(model, cluster, options);
    ASSERT_TRUE(made) << made.error().message();
    planned = *made;
  }

  ModelProfile model;
  ClusterProfile cluster;
  PlannedLayout planned;
};

TEST_F(PlanPicture, ALineForEachPipelineAndABoxForEachStage) {
  const std::string text = plan_picture(planned, model, cluster);
  EXPECT_THAT(text, HasSubstr("pipeline 0  slots 0–"));
  EXPECT_THAT(text, HasSubstr("─▶["));
  EXPECT_THAT(text, HasSubstr("embed…head"));
  EXPECT_THAT(text, HasSubstr(planned.reason));
}

TEST_F(PlanPicture, JsonTellsTheLayout) {
  const nlohmann::json json = plan_json(planned, model, cluster);
  EXPECT_EQ(json["pipelines"].size(), 2U);
  EXPECT_EQ(json["workers"].size(), 3U);
  EXPECT_EQ(json["pipelines"][1]["slots"][1], 32);
  EXPECT_TRUE(json["alternatives"].empty());
}

}  // namespace
}  // namespace planaria
