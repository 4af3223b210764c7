// A planned layout as a picture in text and as JSON.
//
// Thread contract: pure functions.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "coordinator/planner/planner.hpp"

namespace planaria {

// One line a pipeline, a box for each stage with a bar of the part of the step that it computes; then the prediction,
// the reason, what lost and warnings. Of many pipelines the first are drawn.
[[nodiscard]] std::string plan_picture(const PlannedLayout& planned, const ModelProfile& model,
                                       const ClusterProfile& cluster);

// Keys: docs/OPERATING.md, "Planning".
[[nodiscard]] nlohmann::json plan_json(const PlannedLayout& planned, const ModelProfile& model,
                                       const ClusterProfile& cluster);

}  // namespace planaria
