#include "proto/block_cost.hpp"

#include <numeric>

namespace planaria {

std::vector<double> forward_operations(const JobSpec& job, const StateMap& map) {
  const double rows = double(job.batch.sequences) * job.model.context;
  std::vector<double> operations;
  for (const BlockInfo& block : map.blocks()) {
    double of_block = 0;
    for (const TensorInfo& tensor : block.tensors) {
      if (tensor.dimensions == 2) of_block += 2 * rows * static_cast<double>(tensor.elements());
    }
    const bool embedding = operations.empty();
    const bool head = operations.size() + 1 == map.blocks().size();
    if (embedding) {
      of_block = rows * job.model.width;
    } else if (!head) {
      of_block += 2.0 * rows * job.model.context * job.model.width;
    }
    operations.push_back(of_block);
  }
  return operations;
}

double micro_batch_operations(const JobSpec& job, const StateMap& map) {
  const std::vector<double> forward = forward_operations(job, map);
  return 3 * std::accumulate(forward.begin(), forward.end(), 0.0);
}

std::vector<double> block_shares(const JobSpec& job, const StateMap& map) {
  std::vector<double> shares = forward_operations(job, map);
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& share : shares) share /= sum;
  return shares;
}

double share_of(std::span<const double> block_shares, BlockRange blocks) {
  return std::accumulate(block_shares.begin() + blocks.begin, block_shares.begin() + blocks.end, 0.0);
}

}  // namespace planaria
