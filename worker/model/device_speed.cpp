#include "worker/model/device_speed.hpp"

#include <algorithm>
#include <array>

namespace planaria {
namespace {

constexpr std::size_t kSmallest = 256;  // rows, inputs and outputs
constexpr std::size_t kLargest = 8192;
constexpr int kRuns = 5;
// Shorter runs measure the calls, longer ones whom the machine is shared with.
constexpr Duration kLongEnough = std::chrono::milliseconds(2);

class LinearLayer {
 public:
  static Result<LinearLayer> make(TensorDevice& device, std::size_t width) {
    LinearLayer layer(device, width);
    for (DeviceBuffer& buffer : layer.buffers_) {
      PLANARIA_ASSIGN(buffer, device.allocate_floats(width * width));
    }
    return layer;
  }

  Result<Duration> run(const Clock& clock) {
    auto& [x, weight, y, dx, d_weight] = buffers_;
    const Instant began = clock.now();
    device_->linear_forward(shape_, x.floats(), weight.floats(), nullptr, y.floats());
    device_->linear_backward_input(shape_, y.floats(), weight.floats(), dx.floats());
    device_->linear_backward_weight(shape_, x.floats(), y.floats(), d_weight.floats(), nullptr);
    PLANARIA_TRY(device_->synchronize());
    return std::max(clock.now() - began, Duration(1));
  }

  [[nodiscard]] double operations() const {
    return 6.0 * static_cast<double>(shape_.rows) * static_cast<double>(shape_.in) * static_cast<double>(shape_.out);
  }

 private:
  LinearLayer(TensorDevice& device, std::size_t width) : device_(&device), shape_{width, width, width} {}

  TensorDevice* device_;
  LinearShape shape_;
  std::array<DeviceBuffer, 5> buffers_;
};

}  // namespace

Result<double> measure_gflops(Device& device, const Clock& clock) {
  if (const double rated = device.rated_gflops(); rated > 0) return rated;
  TensorDevice* const tensors = device.tensor_device();
  if (tensors == nullptr) return Error(ErrorCode::unsupported, device.name() + " tells nothing of its speed");
  for (std::size_t width = kSmallest;; width *= 2) {
    PLANARIA_ASSIGN(LinearLayer layer, LinearLayer::make(*tensors, width));
    PLANARIA_TRY(layer.run(clock));  // the first one prepares
    PLANARIA_ASSIGN(Duration best, layer.run(clock));
    if (best < kLongEnough && width < kLargest) continue;
    for (int i = 1; i < kRuns; ++i) {
      PLANARIA_ASSIGN(const Duration took, layer.run(clock));
      best = std::min(best, took);
    }
    return layer.operations() / static_cast<double>(best.count());
  }
}

}  // namespace planaria
