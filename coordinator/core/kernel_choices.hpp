// Which algorithms a job's devices compute with, where those are measured: one worker measures for all, and who asks
// meanwhile waits for what it chose. Two that measured for themselves might choose differently, and differ in bits.
//
// Thread contract: plain value, one owner.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/clock.hpp"
#include "common/codec.hpp"
#include "coordinator/core/session_id.hpp"

namespace planaria {

class KernelChoices {
 public:
  // A worker that chooses for longer isn't waited for any more: the next one does. What it then brings is refused.
  static constexpr Duration kMostChoosing = std::chrono::minutes(2);

  struct Waiting {
    SessionId session;
    std::string numeric_class;
  };

  // The answer to a session that asks: what was chosen, or nothing chosen, when it is to choose by itself. None: it
  // waits.
  [[nodiscard]] std::optional<ByteVector> ask(SessionId session, const std::string& numeric_class, Instant now) {
    if (settled_) return chosen_;
    if (!choosing_) choose(session, now);
    if (choosing_ == session) return chosen_;
    if (std::ranges::find(waiting_, session, &Waiting::session) == waiting_.end()) {
      waiting_.push_back({session, numeric_class});
    }
    return std::nullopt;
  }

  // What the first worker of the job computes with, empty where nothing is measured. Those who waited for it.
  [[nodiscard]] std::vector<Waiting> settle(ByteVector chosen) {
    settled_ = true;
    chosen_ = std::move(chosen);
    choosing_.reset();
    return std::exchange(waiting_, {});
  }

  // The session is gone, or what it brings was refused. Who is to choose instead of it.
  [[nodiscard]] std::optional<SessionId> give_up(SessionId session, Instant now) {
    std::erase_if(waiting_, [&](const Waiting& waiting) { return waiting.session == session; });
    return choosing_ == session ? pass_on(now) : std::nullopt;
  }
  [[nodiscard]] std::optional<SessionId> overdue(Instant now) {
    return choosing_ && !waiting_.empty() && now - since_ > kMostChoosing ? pass_on(now) : std::nullopt;
  }
  // Nothing will be chosen: the job is over. Those who waited.
  [[nodiscard]] std::vector<Waiting> abandon() {
    choosing_.reset();
    return std::exchange(waiting_, {});
  }

  [[nodiscard]] const ByteVector& chosen() const { return chosen_; }

 private:
  void choose(SessionId session, Instant now) {
    choosing_ = session;
    since_ = now;
  }
  std::optional<SessionId> pass_on(Instant now) {
    choosing_.reset();
    if (waiting_.empty()) return std::nullopt;
    choose(waiting_.front().session, now);
    waiting_.erase(waiting_.begin());
    return choosing_;
  }

  bool settled_ = false;
  ByteVector chosen_;
  std::optional<SessionId> choosing_;
  Instant since_;                 // it chooses
  std::vector<Waiting> waiting_;  // in the order in which they asked
};

}  // namespace planaria
