// Which algorithms a job's devices compute with, where those are measured: one worker measures for all, and who asks
// meanwhile waits for what it chose. Two that measured for themselves might choose differently, and differ in bits.
//
// Thread contract: plain value, one owner.
#pragma once

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "common/codec.hpp"
#include "coordinator/core/session_id.hpp"

namespace planaria {

class KernelChoices {
 public:
  // The answer to a session that asks: what was chosen, or nothing chosen, when it is to choose by itself. None: it
  // waits.
  [[nodiscard]] std::optional<ByteVector> ask(SessionId session) {
    if (settled_ || !choosing_ || *choosing_ == session) {
      if (!settled_) choosing_ = session;
      return chosen_;
    }
    if (std::ranges::find(waiting_, session) == waiting_.end()) waiting_.push_back(session);
    return std::nullopt;
  }

  // What the first worker of the job computes with, empty where nothing is measured. Those who waited for it.
  [[nodiscard]] std::vector<SessionId> settle(ByteVector chosen) {
    settled_ = true;
    chosen_ = std::move(chosen);
    choosing_.reset();
    return std::exchange(waiting_, {});
  }

  // The session is gone, or what it brings was refused. Who is to choose instead of it.
  [[nodiscard]] std::optional<SessionId> give_up(SessionId session) {
    std::erase(waiting_, session);
    if (choosing_ != session) return std::nullopt;
    choosing_.reset();
    if (waiting_.empty()) return std::nullopt;
    choosing_ = waiting_.front();
    waiting_.erase(waiting_.begin());
    return choosing_;
  }

  [[nodiscard]] const ByteVector& chosen() const { return chosen_; }

 private:
  bool settled_ = false;
  ByteVector chosen_;
  std::optional<SessionId> choosing_;
  std::vector<SessionId> waiting_;  // in the order in which they asked
};

}  // namespace planaria
