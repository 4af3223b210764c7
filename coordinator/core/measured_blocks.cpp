#include "coordinator/core/measured_blocks.hpp"

#include <algorithm>
#include <numeric>

namespace planaria {
namespace {

constexpr int kTurns = 16;  // more change nothing that matters

// Of the blocks that it measured, the cost over the time.
double speed_of(const std::vector<float>& seconds, const std::vector<double>& shares) {
  double cost = 0, time = 0;
  for (std::size_t b = 0; b < std::min(seconds.size(), shares.size()); ++b) {
    if (seconds[b] <= 0) continue;
    cost += shares[b];
    time += seconds[b];
  }
  return time > 0 ? cost / time : 0;
}

double median(std::vector<double>& values) {
  std::ranges::sort(values);
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

}  // namespace

MeasuredBlocks measured_blocks(const std::vector<double>& counted, std::span<const std::vector<float>> seconds) {
  MeasuredBlocks measured{counted, std::vector<double>(seconds.size(), 0)};
  const auto find_speeds = [&] {
    for (std::size_t w = 0; w < seconds.size(); ++w) measured.speeds[w] = speed_of(seconds[w], measured.shares);
  };
  std::vector<double> costs;
  for (int turn = 0; turn < kTurns; ++turn) {
    find_speeds();
    for (std::size_t b = 0; b < counted.size(); ++b) {
      costs.clear();
      for (std::size_t w = 0; w < seconds.size(); ++w) {
        if (b < seconds[w].size() && seconds[w][b] > 0) costs.push_back(seconds[w][b] * measured.speeds[w]);
      }
      if (!costs.empty()) measured.shares[b] = median(costs);
    }
    const double sum = std::accumulate(measured.shares.begin(), measured.shares.end(), 0.0);
    for (double& share : measured.shares) share /= sum;
  }
  find_speeds();
  return measured;
}

}  // namespace planaria
