// A planned layout, what is asked of the planner, and what a layout is predicted to cost.
//
// Thread contract: plain values, pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/planner/profile.hpp"
#include "proto/layout.hpp"

namespace planaria {

struct PlanStage {
  WorkerId worker;
  BlockRange blocks;

  auto operator<=>(const PlanStage&) const = default;
};

struct PlanPipeline {
  std::vector<PlanStage> stages;  // hold every block once, in order
  SlotRange slots;                // not empty

  auto operator<=>(const PlanPipeline&) const = default;
};

struct LayoutPlan {
  std::vector<PlanPipeline> pipelines;  // by slots; cover [0, V)

  auto operator<=>(const LayoutPlan&) const = default;
};

// Tiles of one block, counted from its first, whose sum the owner in pipeline `pipeline` finishes: even shares, in an
// order that is rotated from block to block, so that what doesn't divide goes to another pipeline each time. The tiles
// of a tied copy are finished by the owner of the embedding's same tile, which adds both sums.
[[nodiscard]] TileRange block_shard(std::uint64_t tiles, std::uint32_t block, std::uint32_t pipeline,
                                    std::uint32_t pipelines);

// "2+1": stages of each pipeline; read by pipeline_depths().
[[nodiscard]] std::string depths_text(const LayoutPlan& layout);

// How to search. `automatic` proves the optimum for few workers, and searches locally for many.
enum class SearchMode : std::uint8_t { automatic, exact, local };

struct PlanOptions {
  std::uint32_t micro_batches = 32;     // M, a multiple of slots
  std::uint32_t slots = 32;             // V, a power of two
  bool shard_optimizer = true;          // state exists once; else every owner of a block has its whole state
  std::uint32_t state_generations = 2;  // the update writes into other memory than it reads
  // A step's sums and boundaries stay until a snapshot protects its state, beside those of the next one.
  bool keeps_finished = false;
  std::optional<LayoutPlan> previous;
  double losses_per_s = 0;  // of all workers together, as expected
  // Moving to another layout is paid off over so many steps.
  double amortisation_steps = 100;
  // The previous layout is kept unless the new one, its move included, is faster by this part.
  double hysteresis_gain = 0.05;
  // Stages of each pipeline; empty = the planner chooses.
  std::vector<std::uint32_t> forced_depths;
  SearchMode search = SearchMode::automatic;
};

struct WorkerPrediction {
  WorkerId worker;
  double busy_s = 0;  // of a step
  // At its peak; the sum of what follows.
  std::uint64_t memory_bytes = 0;
  std::uint64_t state_bytes = 0;       // master values and moments, all generations
  std::uint64_t parameter_bytes = 0;   // working parameters, two buffers
  std::uint64_t activation_bytes = 0;  // of micro-batches between forward and the weights' gradients
  Allowance allowance;                 // what of use the memory lets
  std::uint64_t gradient_bytes = 0;    // open sums of own slots, the reduced shard, and pieces stored for it
  std::uint64_t boundary_bytes = 0;    // the step's outputs, kept to be sent again, and inputs received ahead
  // A step's, without boundaries.
  std::uint64_t reduce_sent_bytes = 0;
  std::uint64_t gather_sent_bytes = 0;
};

struct Prediction {
  double step_s = 0;
  double compute_s = 0;  // slowest pipeline: sum of stages and transfers + (m - 1) · its slowest stage or link
  double reduce_s = 0;
  double gather_s = 0;
  double granularity_loss = 0;  // of compute_s, against slots that could be cut anywhere
  double move_s = 0;
  std::uint64_t move_bytes = 0;  // that workers fetch, coming from PlanOptions::previous
  std::uint64_t reduce_bytes = 0;
  std::uint64_t gather_bytes = 0;
  std::uint64_t boundary_bytes = 0;
  double on_one_host = 0;  // part of the blocks whose owners, two or more, share one host
  // Nobody else keeps a worker's state, though two could: what it alone held is lost with it.
  bool state_kept_once = false;
  double loss_s = 0;  // that the losses in a step are expected to cost: a pipeline that lost a worker fills anew
  // What the planner minimises: the step, the move's part of it, up to a thousandth for owners on one host, and half
  // for state that is kept once; and the losses.
  double cost_s = 0;
  std::vector<WorkerPrediction> workers;  // of the layout, by WorkerId
};

// invalid_argument: the layout isn't one (a block or slot without owner, a worker twice or unknown).
[[nodiscard]] Status check_layout(const LayoutPlan& layout, const ModelProfile& model, const ClusterProfile& cluster,
                                  std::uint32_t slots);

// What a layout costs, whether or not it fits into memory. Errors as check_profiles, check_layout and options that
// contradict each other.
[[nodiscard]] Result<Prediction> predict(const LayoutPlan& layout, const ModelProfile& model,
                                         const ClusterProfile& cluster, const PlanOptions& options);

}  // namespace planaria
