// Who does what: slots, shards, members, the layout of a view and the plan to resume a step in it.
//
// Everything here is a value and every function is pure; coordinator and workers meet in these types.
//
// Thread contract: plain values, pure functions.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/codec.hpp"
#include "common/ids.hpp"
#include "common/result.hpp"
#include "proto/snapshot_message.hpp"
#include "proto/state_map.hpp"

namespace planaria {

// Consecutive slots [begin, end).
struct SlotRange {
  std::uint32_t begin = 0;
  std::uint32_t end = 0;

  [[nodiscard]] bool empty() const { return begin >= end; }
  [[nodiscard]] std::uint32_t size() const { return empty() ? 0 : end - begin; }
  [[nodiscard]] bool contains(std::uint32_t slot) const { return begin <= slot && slot < end; }
  [[nodiscard]] SlotRange common(SlotRange other) const {
    return {begin > other.begin ? begin : other.begin, end < other.end ? end : other.end};
  }
  auto operator<=>(const SlotRange&) const = default;
  template <class V>
  void fields(V& v) {
    v(begin, end);
  }
};

// A node of the one canonical summation tree over V slots: it sums slots [index·2^level, (index+1)·2^level).
struct TreeNode {
  std::uint32_t level = 0;
  std::uint32_t index = 0;

  [[nodiscard]] SlotRange slots() const { return {index << level, (index + 1) << level}; }
  [[nodiscard]] TreeNode parent() const { return {level + 1, index / 2}; }
  [[nodiscard]] TreeNode sibling() const { return {level, index ^ 1U}; }
  auto operator<=>(const TreeNode&) const = default;
  template <class V>
  void fields(V& v) {
    v(level, index);
  }
};

// The maximal tree nodes inside a range, left to right: what a worker that owns the range sends.
[[nodiscard]] std::vector<TreeNode> maximal_nodes(SlotRange range);

// The additions that finish the tree from `cover`, an exact disjoint cover of [0, slots): each entry adds its two
// children, deepest first; the last one is the root. Errors with `corrupt` when the cover isn't exact.
struct TreeAddition {
  TreeNode left, right, sum;
};
[[nodiscard]] Result<std::vector<TreeAddition>> finish_tree(std::span<const TreeNode> cover, std::uint32_t slots);

// What a worker's memory lets it do to keep its pipeline busy.
struct Allowance {
  // Micro-batches in flight besides one for each stage from its own to the head: they hide the borders' latency.
  std::uint32_t ahead = 0;
  // Micro-batches whose weights' gradients may wait while stages below wait for the inputs'.
  std::uint32_t waiting = 0;

  auto operator<=>(const Allowance&) const = default;
  template <class V>
  void fields(V& v) {
    v(ahead, waiting);
  }
};

// A keeper computes nothing: it holds snapshots of what its host's workers keep, and votes as the other members do.
enum class Role : std::uint8_t { worker, keeper, count_ };

struct Member {
  WorkerId worker;
  Incarnation incarnation;
  std::string host;
  ByteVector address;  // of its data plane
  Allowance allowance;
  Role role = Role::worker;

  template <class V>
  void fields(V& v) {
    v(worker, incarnation, host, address, allowance, role);
  }
};

// What a stage computes: `blocks` for the micro-batches of `slots`.
struct StageWork {
  BlockRange blocks;
  SlotRange slots;

  [[nodiscard]] bool empty() const { return blocks.empty() || slots.empty(); }
  [[nodiscard]] std::uint64_t cells() const { return std::uint64_t{blocks.size()} * slots.size(); }
  auto operator<=>(const StageWork&) const = default;
  template <class V>
  void fields(V& v) {
    v(blocks, slots);
  }
};

// A stage and its worker. The stages of a step tile the grid of all blocks and all slots; those that share a slot, from
// the first block to the last, are its pipeline. Without slots it holds the blocks and computes nothing.
struct StageAssignment {
  WorkerId worker;
  StageWork work;
  bool recompute = false;  // in a resume plan: its owner is gone, all of it is computed anew

  auto operator<=>(const StageAssignment&) const = default;
  template <class V>
  void fields(V& v) {
    v(worker, work, recompute);
  }
};

// A shard and the member that finishes its sum (and, with a sharded optimizer, owns its state).
struct ShardAssignment {
  WorkerId owner;
  TileRange tiles;     // inside one block
  bool ready = false;  // in a resume plan: the owner holds the reduced gradient of these tiles already

  auto operator<=>(const ShardAssignment&) const = default;
  template <class V>
  void fields(V& v) {
    v(owner, tiles, ready);
  }
};

enum class StateSource : std::uint8_t {
  initialize,  // from the seed
  checkpoint,  // the worker reads the durable one
  peer,
  count_
};

// How a member gets what it lacks, of state r-1.
struct StateFetch {
  WorkerId worker;  // who lacks it
  StateSource source = StateSource::initialize;
  WorkerId from;  // for peer
  TileRange tiles;
  bool parameters_only = false;  // else the moments as well

  template <class V>
  void fields(V& v) {
    v(worker, source, from, tiles, parameters_only);
  }
};

// A member whose state isn't believed, or is of steps that the others went back behind, gives it up: all, or all but
// that of step r-1.
struct Distrust {
  WorkerId worker;
  bool all = true;
  template <class V>
  void fields(V& v) {
    v(worker, all);
  }
};

// How the members of a new view go on with the first step they work on. From the step after it, ViewRecord::stages
// and ViewRecord::shards hold; what those ask a member to keep, it keeps from this step's update on (proto/duty.hpp).
struct ResumePlan {
  Step step;                  // r: every member has or fetches what it needs of state r-1, or has it of r already
  std::uint32_t attempt = 0;  // raised when the step's gradient is computed anew after a numeric alarm
  bool discard = false;       // partial work of step r that members hold is of an older attempt: drop it
  bool skip_update = false;   // the gradient is nonfinite by nature: parameters r = parameters r-1
  bool compute = true;        // false: every shard is ready and no slot is needed
  std::uint32_t tier = 0;     // 0 nothing rolled back, 1 older state in memory, 2 checkpoint, 3 initial state;
                              // above 0 all state but r-1 is given up
  // Members had committed r and go back into it: a part of state r is lost, and no snapshot had it yet. They go on with
  // the work that they put aside; what they had begun of the next step is given up.
  bool returns = false;
  // Raised when members' newest states proved wrong: what descends from those isn't believed any more.
  std::uint32_t lineage = 0;
  std::vector<Distrust> distrusted;
  std::vector<StageAssignment> stages;  // a worker may have several; each is folded on its own
  std::vector<ShardAssignment> shards;
  std::vector<StateFetch> fetches;
  std::vector<FragmentRebuild> rebuilds;  // of state that nobody holds

  // Slots of which something is computed anew, in order.
  [[nodiscard]] std::vector<SlotRange> lost_slots() const;
  [[nodiscard]] std::uint32_t lost_slot_count() const;

  template <class V>
  void fields(V& v) {
    v(step, attempt, discard, skip_update, compute, tier, returns, lineage, distrusted, stages, shards, fetches,
      rebuilds);
  }
};

// A numbered, immutable layout with its members.
struct ViewRecord {
  ViewNumber view;
  std::vector<Member> members;          // by WorkerId
  std::vector<StageAssignment> stages;  // tile blocks × slots
  std::vector<ShardAssignment> shards;  // covers all tiles
  bool sharded = false;                 // a shard's state is at its owner alone (proto/duty.hpp)
  WorkerId checkpoint_writer;           // the member that writes durable checkpoints
  std::string numeric_class;            // of those who compute
  std::uint64_t snapshot_every = 0;     // steps; 0: none are made
  SnapshotLayout snapshots;             // of protected states
  ResumePlan resume;
  std::string reason;

  [[nodiscard]] const Member* member(WorkerId worker) const;
  [[nodiscard]] bool has(WorkerId worker) const { return member(worker) != nullptr; }
  // The one of a host's keepers that has a part in the snapshots.
  [[nodiscard]] const Member* keeper_of(const std::string& host) const;
  // A snapshot is made of the state after the step: of each so many, and of the one that the view begins with, as an
  // earlier layout may not have what this one relies on. The initial state everybody can make.
  [[nodiscard]] bool protects(Step step) const {
    if (snapshot_every == 0 || step == Step(0)) return false;
    return step.value() % snapshot_every == 0 || step.next() == resume.step;
  }

  template <class V>
  void fields(V& v) {
    v(view, members, stages, shards, sharded, checkpoint_writer, numeric_class, snapshot_every, snapshots, resume,
      reason);
  }
};

// Splits each block's tiles, by bytes, over the workers that have a stage with it, so that all of them together have
// shards of about the same size. A tile stays with its owner in `former` as far as that allows. Precondition: stages
// that cover every block.
[[nodiscard]] std::vector<ShardAssignment> split_shards(const StateMap& map, std::span<const StageAssignment> stages,
                                                        std::span<const ShardAssignment> former = {});

// Splits V slots over pipelines, in order, in proportion to their speeds (micro-batches a second), each at least one
// while slots suffice; of splits within `slack` of the best predicted time the one with the fewest tree nodes wins.
// Precondition: speeds, all > 0.
[[nodiscard]] std::vector<SlotRange> split_slots(std::uint32_t slots, std::span<const double> speeds,
                                                 double slack = 0.005);

// Stages between this one and the head, on the longest way up, and between it and the embedding, on the longest way
// down. Precondition: stages that don't overlap.
[[nodiscard]] std::uint32_t stages_above(std::span<const StageAssignment> stages, const StageWork& work);
[[nodiscard]] std::uint32_t stages_below(std::span<const StageAssignment> stages, const StageWork& work);

// The cells of the grid that no stage has, as few ranges as columns of equal gaps give. Precondition: stages that
// don't overlap, inside the grid.
[[nodiscard]] std::vector<StageWork> uncovered_work(std::span<const StageAssignment> stages, std::uint32_t blocks,
                                                    std::uint32_t slots);

// Structural rules that any view must hold; a worker refuses a view that breaks them.
[[nodiscard]] Status check_view(const ViewRecord& view, const StateMap& map, std::uint32_t slots);

}  // namespace planaria
