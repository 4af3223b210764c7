// What to do about a step whose gradient isn't finite: compute it again elsewhere, skip its update, expel who computes
// wrongly, or end the job. Pure functions of the logged attempts.
//
// Bits of a NaN say nothing about where it came from, so attempts are compared by which slots were nonfinite and who
// computed them. The first attempt doesn't know its slots: looking costs a pass over each slot's gradient, which is
// made from the second attempt on.
//
// Thread contract: pure functions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "proto/job_spec.hpp"
#include "proto/log_record.hpp"

namespace planaria {

enum class NumericVerdict : std::uint8_t { recompute, skip, expel, halt };
// As the log names it.
[[nodiscard]] const char* to_string(NumericVerdict verdict);

struct NumericJudgement {
  NumericVerdict verdict = NumericVerdict::recompute;
  std::vector<WorkerId> faulty;  // to be expelled: slots that they made nonfinite were finite elsewhere, twice
  std::string reason;
};

// `now` is the attempt that just ended nonfinite (its decision is empty), `earlier` the decisions about the same step,
// `members` those who could compute it once more. The gradient is nonfinite by nature when two attempts agree about
// every slot although no such slot was computed by the same worker twice, and no attempt made one of those finite.
[[nodiscard]] NumericJudgement judge_nonfinite(const log_record::NumericDecision& now,
                                               std::span<const log_record::NumericDecision> earlier,
                                               std::span<const WorkerId> members, NonfinitePolicy policy);

// `now` is what members were just found to hold, `earlier` the decisions about the same step. After a rollback that
// began with equal states, a worker that is alone against equal others for the second time computes wrongly; when none
// is and they keep disagreeing, nothing can be trusted.
[[nodiscard]] NumericJudgement judge_disagreement(const log_record::Disagreement& now,
                                                  std::span<const log_record::Disagreement> earlier);

}  // namespace planaria
