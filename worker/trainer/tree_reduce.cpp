#include "worker/trainer/tree_reduce.hpp"

#include <algorithm>
#include <map>

namespace planaria {

Result<TreeReducer> TreeReducer::plan(std::span<const TreeNode> cover, std::uint32_t slots) {
  PLANARIA_ASSIGN(const auto additions, finish_tree(cover, slots));
  std::map<TreeNode, std::size_t> leaves;
  for (std::size_t i = 0; i < cover.size(); ++i) leaves[cover[i]] = i;
  std::map<TreeNode, TreeAddition> sums;
  for (const TreeAddition& addition : additions) sums[addition.sum] = addition;

  TreeReducer reducer;
  // Scratch slots are a stack: a fold's target takes the place of the first slot that its parts used.
  const auto evaluate = [&](const auto& self, TreeNode node, std::size_t free_slot) -> Source {
    if (const auto leaf = leaves.find(node); leaf != leaves.end()) return {false, leaf->second};
    Fold fold{.parts = {}, .target = free_slot};
    std::size_t next = free_slot;
    const auto part = [&](TreeNode child) {
      fold.parts.push_back(self(self, child, next));
      if (fold.parts.back().scratch) ++next;
    };
    TreeNode right = node;
    for (auto sum = sums.find(right); sum != sums.end(); sum = sums.find(right)) {
      part(sum->second.left);
      right = sum->second.right;
    }
    part(right);
    reducer.scratch_slots_ = std::max({reducer.scratch_slots_, next, free_slot + 1});
    reducer.folds_.push_back(std::move(fold));
    return {true, free_slot};
  };
  const TreeNode root = additions.empty() ? cover[0] : additions.back().sum;
  if (additions.empty()) {
    reducer.folds_.push_back({{Source{false, 0}}, 0});
  } else {
    evaluate(evaluate, root, 0);
  }
  return reducer;
}

void TreeReducer::run(Device& device, std::size_t count, std::span<const float* const> inputs, float* scratch,
                      std::size_t chunk, float* out) const {
  std::vector<const float*> parts;
  for (std::size_t at = 0; at < count; at += chunk) {
    const std::size_t size = std::min(chunk, count - at);
    for (std::size_t i = 0; i < folds_.size(); ++i) {
      const Fold& fold = folds_[i];
      parts.clear();
      for (const Source& source : fold.parts) {
        parts.push_back(source.scratch ? scratch + source.index * chunk : inputs[source.index] + at);
      }
      device.fold(size, parts, i + 1 == folds_.size() ? out + at : scratch + fold.target * chunk);
    }
  }
}

}  // namespace planaria
