#include "worker/trainer/gradient_store.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace planaria {

namespace {

std::string name_of(StageNode at) {
  return "tree node " + std::to_string(at.node.index) + " of level " + std::to_string(at.node.level) + ", blocks " +
         std::to_string(at.blocks.begin) + " to " + std::to_string(at.blocks.end);
}

Error missing(StageNode node) {
  return {ErrorCode::internal, name_of(node) + " isn't held by the trainer"};
}

}  // namespace

std::vector<TreeAddition> fold_cascade(std::uint32_t first, SlotIndex slot) {
  std::vector<TreeAddition> additions;
  for (TreeNode right{0, slot.value()}; (right.index & 1U) != 0; right = right.parent()) {
    const TreeNode left = right.sibling();
    if (left.slots().begin < first) break;
    additions.push_back({left, right, right.parent()});
  }
  return additions;
}

GradientStore::GradientStore(Device& device, std::shared_ptr<BufferPool> pool, const StateMap& map, std::uint32_t slots)
    : device_(device), pool_(std::move(pool)), map_(map), slots_(slots) {}

void GradientStore::enter(Step step) {
  if (sums_.step != step) sums_ = Sums{.step = step};
}

void GradientStore::release(Step step) {
  if (sums_.step == step) sums_ = Sums{};
  if (kept_.step == step) kept_ = Sums{};
}

// Who computes nothing and keeps nothing may have entered no step.
Status GradientStore::keep(Step step) {
  const bool nothing = sums_.nodes.empty() && sums_.reduced == nullptr;
  if (sums_.step != step && !nothing) {
    return Error(ErrorCode::internal, "a step is to be put aside that isn't worked on");
  }
  kept_ = std::exchange(sums_, Sums{});
  kept_.step = step;
  return ok_status();
}

Status GradientStore::return_to(Step step) {
  if (kept_.step != step) return Error(ErrorCode::internal, "a step is taken up that wasn't put aside");
  sums_ = std::exchange(kept_, Sums{});
  return ok_status();
}

ElementRange GradientStore::elements_of(BlockRange blocks) const {
  const BlockInfo& last = map_.blocks()[blocks.end - 1];
  return {map_.blocks()[blocks.begin].offset, last.offset + last.elements};
}

Result<float*> GradientStore::begin_slot(BlockRange blocks, SlotIndex slot) {
  const StageNode leaf{blocks, {0, slot.value()}};
  sums_.nodes.erase(leaf);
  PLANARIA_ASSIGN(Buffer buffer, pool_->take());
  auto shared = std::make_shared<Buffer>(std::move(buffer));
  float* values = shared->floats();
  sums_.nodes[leaf] = std::move(shared);
  return values;
}

Result<float*> GradientStore::slot(BlockRange blocks, SlotIndex slot) {
  const StageNode leaf{blocks, {0, slot.value()}};
  const auto found = sums_.nodes.find(leaf);
  if (found == sums_.nodes.end()) return missing(leaf);
  return found->second->floats();
}

Result<GradientStore::Fold> GradientStore::begin_fold(BlockRange blocks, std::span<const TreeAddition> chain) {
  Fold fold{.blocks = blocks, .parts = {}, .sources = {}, .sum = chain.back().sum, .fresh = {}, .reuse = SIZE_MAX};
  for (std::size_t i = chain.size(); i-- > 0;) fold.parts.push_back(chain[i].left);
  fold.parts.push_back(chain.front().right);
  for (std::size_t i = 0; i < fold.parts.size(); ++i) {
    const auto found = sums_.nodes.find({blocks, fold.parts[i]});
    if (found == sums_.nodes.end()) return missing({blocks, fold.parts[i]});
    fold.sources.push_back(found->second->floats());
    const bool writable = !found->second->leased() && found->second.use_count() == 1;
    if (fold.reuse == SIZE_MAX && writable) fold.reuse = i;
  }
  if (fold.reuse == SIZE_MAX) {
    PLANARIA_ASSIGN(fold.fresh, pool_->take());
  }
  return fold;
}

void GradientStore::fold(Fold& fold, ElementRange elements) {
  std::vector<const float*> parts(fold.sources.size());
  for (std::size_t i = 0; i < parts.size(); ++i) parts[i] = fold.sources[i] + elements.begin;
  float* target = fold.fresh ? fold.fresh.floats() : sums_.nodes.at({fold.blocks, fold.parts[fold.reuse]})->floats();
  device_.fold(elements.size(), parts, target + elements.begin);
}

void GradientStore::finish(Fold fold) {
  SharedBuffer sum = fold.fresh ? std::make_shared<Buffer>(std::move(fold.fresh))
                                : sums_.nodes.at({fold.blocks, fold.parts[fold.reuse]});
  for (const TreeNode part : fold.parts) sums_.nodes.erase({fold.blocks, part});
  sums_.nodes[{fold.blocks, fold.sum}] = std::move(sum);
}

Status GradientStore::add(BlockRange blocks, std::span<const TreeAddition> additions) {
  if (!additions.empty() && sums_.nodes.contains({blocks, additions.back().sum}) &&
      !sums_.nodes.contains({blocks, additions.front().left}) &&
      !sums_.nodes.contains({blocks, additions.front().right})) {
    return ok_status();  // done with the backward pass
  }
  while (!additions.empty()) {
    std::size_t length = 1;
    while (length < additions.size() && additions[length].right == additions[length - 1].sum) ++length;
    PLANARIA_ASSIGN(Fold chain, begin_fold(blocks, additions.first(length)));
    fold(chain, elements_of(blocks));
    finish(std::move(chain));
    additions = additions.subspan(length);
  }
  return device_.synchronize();
}

Status GradientStore::need_reduced() {
  if (sums_.reduced) return ok_status();
  PLANARIA_ASSIGN(Buffer buffer, pool_->take());
  sums_.reduced = std::make_shared<Buffer>(std::move(buffer));
  return ok_status();
}

std::vector<TileRange> GradientStore::lacking(TileRange tiles) const {
  return TileSet(tiles).without(sums_.held).runs();
}

// Where the device finds the received values of each input; null for own nodes.
Result<std::vector<const float*>> GradientStore::take_in(std::span<const Input> inputs) {
  std::vector<const float*> received;
  std::size_t elements = 0;
  for (const Input& input : inputs) {
    received.push_back(input.values.empty() ? nullptr : input.values.data());
    elements += input.values.size();
  }
  if (device_.host_accessible() || elements == 0) return received;
  if (arrivals_.bytes() < elements * sizeof(float)) {
    arrivals_ = DeviceBuffer();
    PLANARIA_ASSIGN(arrivals_, device_.reserve_floats(elements));
  }
  float* to = arrivals_.floats();
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::span<const float> values = inputs[i].values;
    if (values.empty()) continue;
    device_.copy_in(to, values.data(), values.size_bytes());
    received[i] = std::exchange(to, to + values.size());
  }
  return received;
}

Result<const float*> GradientStore::input_values(const Input& input, const float* received, TileRange tiles) const {
  const std::uint64_t first = map_.tile(TileIndex(tiles.begin)).begin;
  if (received == nullptr) {
    const auto found = sums_.nodes.find(input.node);
    if (found == sums_.nodes.end()) return missing(input.node);
    return found->second->floats() + first;
  }
  std::uint64_t offset = 0;
  for (const TileRange& range : input.tiles) {
    if (range.begin <= tiles.begin && tiles.end <= range.end) {
      offset += map_.bytes({range.begin, tiles.begin}) / sizeof(float);
      if (offset + map_.bytes(tiles) / sizeof(float) > input.values.size()) break;
      return received + offset;
    }
    offset += map_.bytes(range) / sizeof(float);
  }
  return Error(ErrorCode::internal, "a received " + name_of(input.node) + " lacks tiles of the own shards");
}

Status GradientStore::reduce(std::span<const TileRange> tiles, std::span<const Input> inputs) {
  std::vector<TreeNode> cover;
  for (const Input& input : inputs) cover.push_back(input.node.node);
  PLANARIA_ASSIGN(const TreeReducer reducer, TreeReducer::plan(cover, slots_));
  std::uint64_t bytes = 0;
  for (const TileRange& range : tiles) bytes += map_.bytes(range);
  const bool whole = bytes == map_.bytes({0, map_.tile_count()});
  if (whole && !sums_.reduced && inputs.size() == 1 && inputs[0].values.empty()) {
    const auto root = sums_.nodes.find(inputs[0].node);
    if (root == sums_.nodes.end()) return missing(inputs[0].node);
    sums_.reduced = root->second;  // nothing is left to add
    sums_.held = TileSet(TileRange{0, map_.tile_count()});
    return ok_status();
  }
  PLANARIA_TRY(need_reduced());
  const std::size_t chunk = device_.host_accessible() ? kReduceChunk : kLaunchedReduceChunk;
  if (scratch_.bytes() < reducer.scratch_elements(chunk) * sizeof(float)) {
    scratch_ = DeviceBuffer();
    PLANARIA_ASSIGN(scratch_, device_.reserve_floats(reducer.scratch_elements(chunk)));
  }
  PLANARIA_ASSIGN(const std::vector<const float*> received, take_in(inputs));
  std::vector<const float*> values(inputs.size());
  for (const TileRange& range : tiles) {
    for (const TileRange& part : lacking(range)) {
      for (std::size_t i = 0; i < inputs.size(); ++i) {
        PLANARIA_ASSIGN(values[i], input_values(inputs[i], received[i], part));
      }
      const std::uint64_t first = map_.tile(TileIndex(part.begin)).begin;
      const std::uint64_t count = map_.tile(TileIndex(part.end - 1)).end - first;
      reducer.run(device_, count, values, scratch_.floats(), chunk, sums_.reduced->floats() + first);
    }
    sums_.held.add(range);
  }
  return device_.synchronize();
}

Status GradientStore::store_reduced(std::span<const TileRange> tiles, std::span<const float> values) {
  PLANARIA_TRY(need_reduced());
  const float* source = values.data();
  for (const TileRange& range : tiles) {
    const std::uint64_t count = map_.bytes(range) / sizeof(float);
    if (source + count > values.data() + values.size()) {
      return Error(ErrorCode::internal, "a reduced gradient arrived with too few values");
    }
    for (const TileRange& part : lacking(range)) {
      const float* from = source + map_.bytes({range.begin, part.begin}) / sizeof(float);
      for (const ElementRange& run : element_runs(map_, std::span(&part, 1))) {
        device_.copy_in(sums_.reduced->floats() + run.begin, from, run.size() * sizeof(float));
        from += run.size();
      }
    }
    source += count;
    sums_.held.add(range);
  }
  return device_.synchronize();
}

Result<ValueSource> GradientStore::lease_node(StageNode node) const {
  const auto found = sums_.nodes.find(node);
  if (found == sums_.nodes.end()) return missing(node);
  return ValueSource{found->second->floats(), found->second->lease()};
}

Result<ValueSource> GradientStore::lease_reduced() const {
  if (!sums_.reduced) return Error(ErrorCode::internal, "no reduced gradient is held");
  return ValueSource{sums_.reduced->floats(), sums_.reduced->lease()};
}

Result<const float*> GradientStore::reduced() const {
  if (!sums_.reduced) return Error(ErrorCode::internal, "no reduced gradient is held");
  return sums_.reduced->floats();
}

}  // namespace planaria
