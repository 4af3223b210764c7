// Who carries out what WorkerCore asks for that moves data: a worker's trainer, a keeper's store.
//
// Thread contract: all methods may be called from any thread and return at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "common/clock.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"
#include "common/transport/transport.hpp"
#include "proto/state_map.hpp"
#include "worker/core/events.hpp"

namespace planaria {

struct ExecutorHooks {
  std::function<void(WorkerEvent)> completed;
  // The device or memory failed, or core and executor disagree: no further action is carried out.
  std::function<void(Error)> failed;
  // A payload of one of the sends that take their place in the order is ready.
  std::function<void(WorkerId to, ViewNumber view, std::vector<ConstSlice> payload)> send;
};

struct ExecutorCounters {
  std::uint64_t micro_batches = 0;
  std::uint64_t recomputed = 0;
  Duration computing{};           // micro-batches
  Duration waiting{};             // with nothing to do between micro-batches of one step and view: a pipeline's gaps
  Duration snapshots{};           // handing state over to be copied
  std::uint64_t torn_leases = 0;  // 0 unless there is a bug
  std::size_t buffer_bytes = 0;
};

class ActionExecutor {
 public:
  virtual ~ActionExecutor() = default;

  // Queues an action that worker/core/events.hpp gives to the trainer, or a send that takes its place in their order;
  // others are ignored. `view`: in which it was ordered.
  virtual void post(WorkerAction action, ViewNumber view) = 0;
  // The payload of a SendState, or nothing when that stamp isn't held.
  [[nodiscard]] virtual std::optional<std::vector<ConstSlice>> state_payload(const StateTiles& meta) = 0;
  [[nodiscard]] virtual ExecutorCounters counters() const = 0;
  [[nodiscard]] virtual const StateMap& map() const = 0;
  // Floats of a boundary between two blocks, of a micro-batch; 0: it takes none.
  [[nodiscard]] virtual std::size_t boundary_elements() const = 0;
};

}  // namespace planaria
