// Sums of stages: folded, sent to the owners of shards, reduced there.
#include <algorithm>
#include <utility>

#include "worker/core/worker_core.hpp"

namespace planaria {

using namespace worker_action;  // NOLINT: the file is about emitting these

// Neighbouring stages of the same blocks, of which one was taken over from a lost worker, fold together once both are
// finished: fewer sums have to travel.
void WorkerCore::fold_across_stages() {
  std::map<BlockRange, std::vector<StepWork::Stage*>> alike;
  for (StepWork::Stage& stage : work_.stages) alike[stage.work.blocks].push_back(&stage);
  for (const auto& [blocks, stages] : alike) {
    std::vector<TreeNode> nodes;
    for (StepWork::Stage* stage : stages) {
      nodes.insert(nodes.end(), stage->nodes.begin(), stage->nodes.end());
      stage->nodes.clear();
    }
    std::ranges::sort(nodes, {}, [](TreeNode node) { return node.slots().begin; });
    FoldNodes fold{work_.step, blocks, {}};
    std::vector<TreeNode> folded;
    for (const TreeNode node : nodes) {
      folded.push_back(node);
      fold_siblings(folded, fold.additions);
    }
    stages.front()->nodes = std::move(folded);
    if (!fold.additions.empty()) emit(std::move(fold));
  }
}

// Shards that the worker still has to finish, inside the blocks.
std::vector<TileRange> WorkerCore::unready_shards(WorkerId owner, BlockRange blocks) const {
  std::vector<TileRange> tiles;
  const TileRange inside = config_.map->tiles_of(blocks);
  for (const ShardAssignment& shard : exchange_.shards) {
    if (shard.owner == owner && !shard.ready && inside.begin <= shard.tiles.begin && shard.tiles.end <= inside.end) {
      tiles.push_back(shard.tiles);
    }
  }
  return tiles;
}

void WorkerCore::pump_pieces() {
  const bool own_work_done = exchange_.compute && work_.step != Step(0) && work_.computed();
  if (exchange_.pieces_sent || !own_work_done) return;
  exchange_.pieces_sent = true;
  if (!is_epilogue()) fold_across_stages();
  for (const WorkerId to : others()) {
    for (const StepWork::Stage& stage : work_.stages) send_pieces(stage, to);
  }
}

void WorkerCore::send_pieces(const StepWork::Stage& stage, WorkerId to) {
  const bool tells_losses = holds_head(stage.work.blocks);
  std::vector<TileRange> tiles;
  if (!is_epilogue()) tiles = unready_shards(to, stage.work.blocks);
  if (is_epilogue() ? !tells_losses : tiles.empty()) return;
  for (const TreeNode node : is_epilogue() ? maximal_nodes(stage.work.slots) : stage.nodes) {
    Piece piece{work_.step, work_.attempt, stage.work.blocks, node, tiles, {}, work_.nonfinite_slots(node.slots())};
    for (std::uint32_t slot = node.slots().begin; tells_losses && slot < node.slots().end; ++slot) {
      piece.losses.push_back(*work_.losses[slot]);
    }
    if (is_epilogue()) {
      emit(SendSmall{to, view_->view, std::move(piece)});
    } else {
      emit(SendPiece{to, view_->view, std::move(piece)});
    }
  }
}

// Of how many slots sums of the block's gradient are here.
std::uint32_t WorkerCore::slots_summed(BlockIndex block) const {
  std::uint32_t slots = block.value() < exchange_.piece_slots.size() ? exchange_.piece_slots[block.value()] : 0;
  for (const StepWork::Stage& stage : work_.stages) {
    if (!stage.work.blocks.contains(block)) continue;
    for (const TreeNode node : stage.nodes) slots += node.slots().size();
  }
  return slots;
}

// The sums of a block's gradient that are here.
std::vector<ReduceShards::Input> WorkerCore::inputs_of(BlockIndex block) const {
  std::vector<ReduceShards::Input> inputs;
  for (const StepWork::Stage& stage : work_.stages) {
    if (!stage.work.blocks.contains(block)) continue;
    for (const TreeNode node : stage.nodes) inputs.push_back({{stage.work.blocks, node}, nullptr, {}});
  }
  for (const auto& [node, input] : exchange_.pieces) {
    if (node.blocks.contains(block)) inputs.push_back(input);
  }
  return inputs;
}

// Every shard as soon as its block's sums are all here; shards with the same sums go together.
void WorkerCore::start_reducing() {
  const std::uint32_t missing = mutated(Mutation::reduce_incomplete_cover) ? config_.slots / 4 : 0;
  std::vector<ReduceShards> reductions;
  for (const TileRange shard : unready_shards(self(), all_blocks())) {
    if (work_.reduced.contains(shard) || exchange_.reducing.contains(shard.begin)) continue;
    if (slots_summed(block_of(shard)) + missing < config_.slots) continue;
    std::vector<ReduceShards::Input> inputs = inputs_of(block_of(shard));
    std::vector<TreeNode> cover;
    for (const ReduceShards::Input& input : inputs) cover.push_back(input.node.node);
    if (!finish_tree(cover, config_.slots) && missing == 0) {
      exchange_.alarmed = true;
      return refuse("pieces of a step cover its slots twice");
    }
    exchange_.reducing.insert(shard.begin);
    const bool alike =
        !reductions.empty() && std::ranges::equal(reductions.back().inputs, inputs, {}, &ReduceShards::Input::node,
                                                  &ReduceShards::Input::node);
    if (alike) {
      reductions.back().tiles.push_back(shard);
    } else {
      reductions.push_back({work_.step, work_.attempt, {shard}, std::move(inputs)});
    }
  }
  for (ReduceShards& reduction : reductions) {
    for (const ReduceShards::Input& again : exchange_.repeated) {
      if (again.node.blocks.contains(block_of(reduction.tiles.front()))) reduction.inputs.push_back(again);
    }
    ++reducing_;
    emit(std::move(reduction));
  }
}

void WorkerCore::pump_reduce() {
  if (is_epilogue()) return;
  if (exchange_.pieces_sent && !exchange_.alarmed) start_reducing();
  if (reducing_ == 0 && !exchange_.reduced_sent) send_reduced();
}

// Each member gets the sums that it updates with.
void WorkerCore::send_reduced() {
  const TileSet own = owned_by(exchange_.shards, self());
  // With the head's gradient come the losses: who holds the one can tell the others.
  const bool waits_for_losses = own.intersects(head_tiles()) && !work_.losses_complete();
  if (!work_.reduced.contains(own) || waits_for_losses) return;
  exchange_.reduced_sent = true;
  for (const WorkerId to : others()) {
    const TileSet tiles = own.common(duty(to).summed);
    if (tiles.empty()) continue;
    emit(SendReduced{to, view_->view, Reduced{work_.step, work_.attempt, tiles.runs(), work_.known_losses()}});
  }
}

void WorkerCore::handle(const worker_event::ShardsReduced& event) {
  ++progress_;
  if (reducing_ > 0) --reducing_;
  if (event.step != work_.step || event.attempt != work_.attempt) return;
  for (const TileRange tiles : event.tiles) work_.reduced.add(tiles);
}

}  // namespace planaria
