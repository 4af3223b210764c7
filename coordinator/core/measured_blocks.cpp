#include "coordinator/core/measured_blocks.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include "common/median.hpp"

namespace planaria {
namespace {

constexpr int kTurns = 16;  // more change nothing that matters
// Of a block; more workers make a median no better.
constexpr std::size_t kMaxSamples = 512;

// Of the blocks that it measured, the cost over the time.
double speed_of(std::span<const float> seconds, const std::vector<double>& shares) {
  double cost = 0, time = 0;
  for (std::size_t b = 0; b < std::min(seconds.size(), shares.size()); ++b) {
    if (seconds[b] <= 0) continue;
    cost += shares[b];
    time += seconds[b];
  }
  return time > 0 ? cost / time : 0;
}

}  // namespace

MeasuredBlocks measured_blocks(const std::vector<double>& counted, std::span<const std::span<const float>> seconds) {
  MeasuredBlocks measured{counted, std::vector<double>(seconds.size(), 0)};
  const auto find_speeds = [&] {
    for (std::size_t w = 0; w < seconds.size(); ++w) measured.speeds[w] = speed_of(seconds[w], measured.shares);
  };
  std::vector<double> costs;
  std::vector<std::vector<std::size_t>> samples(counted.size());  // workers that measured the block
  for (std::size_t b = 0; b < counted.size(); ++b) {
    for (std::size_t w = 0; w < seconds.size(); ++w) {
      if (b < seconds[w].size() && seconds[w][b] > 0) samples[b].push_back(w);
    }
    const std::size_t stride = (samples[b].size() + kMaxSamples - 1) / kMaxSamples;
    for (std::size_t k = 0; stride > 1 && k * stride < samples[b].size(); ++k) samples[b][k] = samples[b][k * stride];
    if (stride > 1) samples[b].resize((samples[b].size() + stride - 1) / stride);
  }
  for (int turn = 0; turn < kTurns; ++turn) {
    find_speeds();
    for (std::size_t b = 0; b < counted.size(); ++b) {
      costs.clear();
      for (const std::size_t w : samples[b]) costs.push_back(seconds[w][b] * measured.speeds[w]);
      if (!costs.empty()) measured.shares[b] = median(costs);
    }
    const double sum = std::accumulate(measured.shares.begin(), measured.shares.end(), 0.0);
    for (double& share : measured.shares) share /= sum;
  }
  find_speeds();
  return measured;
}

void estimate_speeds(std::vector<double>& speeds, std::span<const double> gflops, double operations) {
  std::vector<double> per_gflop;
  double fastest = 0;
  for (std::size_t w = 0; w < speeds.size(); ++w) {
    fastest = std::max(fastest, speeds[w]);
    if (speeds[w] > 0 && gflops[w] > 0) per_gflop.push_back(speeds[w] / gflops[w]);
  }
  if (fastest <= 0) fastest = std::numeric_limits<double>::infinity();
  const double usual = per_gflop.empty() ? 1e9 / operations : median(per_gflop);
  for (std::size_t w = 0; w < speeds.size(); ++w) {
    if (speeds[w] <= 0 && gflops[w] > 0) speeds[w] = std::min(gflops[w] * usual, fastest);
  }
}

}  // namespace planaria
