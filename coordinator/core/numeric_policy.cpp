#include "coordinator/core/numeric_policy.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

namespace planaria {
namespace {

using Attempt = log_record::NumericDecision;

// Nonfinite attempts: the first, two that look for a faulty worker, one without it, and room for a second such story.
// An attempt's number says less: work that is thrown away for other reasons raises it as well.
constexpr std::size_t kMaxAttempts = 6;

bool observed(const Attempt& attempt) {
  return attempt.attempt > 0;
}

std::set<std::uint32_t> slots_of(const std::vector<SlotRange>& ranges) {
  std::set<std::uint32_t> slots;
  for (const SlotRange range : ranges) {
    for (std::uint32_t slot = range.begin; slot < range.end; ++slot) slots.insert(slot);
  }
  return slots;
}

// The workers of the slot's pipeline: any of them may have made its gradient nonfinite.
std::set<WorkerId> computed_by(const Attempt& attempt, std::uint32_t slot) {
  std::set<WorkerId> workers;
  for (const StageAssignment& stage : attempt.computed) {
    if (stage.work.slots.contains(slot)) workers.insert(stage.worker);
  }
  return workers;
}

bool by_nature(const Attempt& now, const Attempt& before, bool alone) {
  const auto slots = slots_of(now.nonfinite);
  if (slots != slots_of(before.nonfinite)) return false;
  return alone || std::ranges::all_of(slots, [&](std::uint32_t slot) {
           const auto then = computed_by(before, slot);
           return std::ranges::none_of(computed_by(now, slot), [&](WorkerId worker) { return then.contains(worker); });
         });
}

// Workers and the attempts in which a slot was nonfinite with them and finite without them.
std::map<WorkerId, std::set<std::uint32_t>> contradicted(const std::vector<Attempt>& attempts) {
  std::map<WorkerId, std::set<std::uint32_t>> found;
  for (const Attempt& bad : attempts) {
    for (const std::uint32_t slot : slots_of(bad.nonfinite)) {
      for (const WorkerId worker : computed_by(bad, slot)) {
        const bool finite_elsewhere = std::ranges::any_of(attempts, [&](const Attempt& good) {
          return !slots_of(good.nonfinite).contains(slot) && !computed_by(good, slot).contains(worker);
        });
        if (finite_elsewhere) found[worker].insert(bad.attempt);
      }
    }
  }
  return found;
}

}  // namespace

const char* to_string(NumericVerdict verdict) {
  switch (verdict) {
    case NumericVerdict::recompute:
      return "recompute";
    case NumericVerdict::skip:
      return "skip";
    case NumericVerdict::expel:
      return "expel";
    case NumericVerdict::halt:
      return "halt";
  }
  return "unknown";
}

NumericJudgement judge_nonfinite(const Attempt& now, std::span<const Attempt> earlier,
                                 std::span<const WorkerId> members, NonfinitePolicy policy) {
  const std::string step = "the gradient of step " + std::to_string(now.step.value());
  std::vector<Attempt> attempts;  // those that know their slots, this one last
  std::set<std::uint32_t> alarms{now.attempt};
  bool natural = false;
  for (const Attempt& before : earlier) {
    if (before.step != now.step) continue;
    // Decided already, by a view that was never committed.
    natural = natural || (before.attempt == now.attempt && before.decision == to_string(NumericVerdict::skip));
    alarms.insert(before.attempt);
    if (observed(before) && before.attempt < now.attempt) attempts.push_back(before);
  }
  const bool last = alarms.size() >= kMaxAttempts;
  if (observed(now)) {
    std::set<SlotRange> pipelines;
    for (const StageAssignment& stage : now.computed) pipelines.insert(stage.work.slots);
    const bool alone = pipelines.size() < 2;  // nobody else has the blocks
    const bool never_finite = std::ranges::all_of(attempts, [&](const Attempt& before) {
      return std::ranges::includes(slots_of(before.nonfinite), slots_of(now.nonfinite));
    });
    const bool twice =
        std::ranges::any_of(attempts, [&](const Attempt& before) { return by_nature(now, before, alone); });
    natural = natural || (never_finite && twice);
    // Nobody ever contradicted it, though the same workers had the same slots each time.
    natural = natural || (last && std::ranges::all_of(attempts, [&](const Attempt& before) {
                            return slots_of(before.nonfinite) == slots_of(now.nonfinite);
                          }));
    attempts.push_back(now);
  }
  if (natural && policy == NonfinitePolicy::skip) {
    return {NumericVerdict::skip, {}, step + " is nonfinite by nature: its update is skipped; "};
  }
  if (natural) {
    return {NumericVerdict::halt, {}, step + " is nonfinite by nature and optimizer.nonfinite = \"halt\""};
  }
  NumericJudgement expel{NumericVerdict::expel, {}, {}};
  for (const auto& [worker, times] : contradicted(attempts)) {
    const bool member = std::ranges::find(members, worker) != members.end();
    if (member && times.size() >= 2) expel.faulty.push_back(worker);
  }
  if (!expel.faulty.empty() && expel.faulty.size() < members.size()) {
    expel.reason = step + " is nonfinite only where some workers compute it";
    return expel;
  }
  if (last) {
    return {
        NumericVerdict::halt, {}, step + " is nonfinite in other slots at every attempt: a device computes wrongly"};
  }
  return {NumericVerdict::recompute, {}, step + " is nonfinite: computing it once more, elsewhere; "};
}

namespace {

constexpr std::size_t kMaxDisagreements = 8;  // about one step

std::optional<WorkerId> odd_one(const log_record::Disagreement& disagreement) {
  std::map<Hash128, std::vector<WorkerId>> groups;
  for (const auto& member : disagreement.hashes) groups[member.hash].push_back(member.worker);
  if (disagreement.hashes.size() < 3 || groups.size() != 2) return std::nullopt;
  for (const auto& [hash, workers] : groups) {
    if (workers.size() == 1) return workers.front();
  }
  return std::nullopt;
}

}  // namespace

NumericJudgement judge_disagreement(const log_record::Disagreement& now,
                                    std::span<const log_record::Disagreement> earlier) {
  const std::string what =
      (now.gradient ? "the gradient of step " : "the state of step ") + std::to_string(now.step.value());
  std::set<std::uint32_t> rounds{now.round};
  const auto odd = odd_one(now);
  bool again = false;
  for (const auto& before : earlier) {
    if (before.step != now.step || before.gradient != now.gradient) continue;
    again = again || (before.round != now.round && odd && odd_one(before) == odd);
    rounds.insert(before.round);
  }
  if (again) return {NumericVerdict::expel, {*odd}, what + " differs from the others' each time it computes it"};
  if (rounds.size() >= kMaxDisagreements) {
    return {NumericVerdict::halt, {}, "members disagree about " + what + " each time they compute it"};
  }
  return {NumericVerdict::recompute, {}, "members disagree about " + what + ": "};
}

}  // namespace planaria
