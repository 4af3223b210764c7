#include "worker/model/generate.hpp"

#include <algorithm>
#include <numeric>
#include <string>

#include "common/philox.hpp"
#include "kernels/elementary.hpp"
#include "worker/model/transformer.hpp"

namespace planaria {
namespace {

// One sequence of up to the model's context through all blocks, one boundary at a time.
class Predictor {
 public:
  static Result<Predictor> create(TensorDevice& device, const ModelSpec& model, const StateMap& map) {
    PLANARIA_ASSIGN(Transformer transformer, Transformer::create(device, model, map, {1, model.context}, 0));
    Predictor predictor(std::move(transformer));
    PLANARIA_TRY(predictor.allocate());
    return predictor;
  }

  // The logits that follow the last token. Precondition: 1 <= tokens.size() <= context.
  Status logits(const float* parameters, std::span<const std::int32_t> tokens, std::span<float> out) {
    TensorDevice& device = transformer_.device();
    device.copy_in(tokens_.data(), tokens.data(), tokens.size_bytes());
    MicroBatch batch;
    batch.shape = {1, tokens.size()};
    batch.tokens = static_cast<const std::int32_t*>(tokens_.data());
    batch.training = false;
    const auto blocks = transformer_.map().blocks();
    const auto head = transformer_.head().value();
    for (std::uint32_t b = 0; b < head; ++b) {
      transformer_.forward(BlockIndex(b), batch, parameters + blocks[b].offset, boundary_[(b + 1) % 2].floats(),
                           boundary_[b % 2].floats(), saved_.floats());
    }
    const float* last_row = boundary_[(head + 1) % 2].floats() + (tokens.size() - 1) * transformer_.model().width;
    transformer_.row_logits(parameters + blocks[head].offset, last_row, saved_.floats(), logits_.floats());
    device.copy_out(out.data(), logits_.data(), out.size_bytes());
    return device.synchronize();
  }

 private:
  explicit Predictor(Transformer transformer) : transformer_(std::move(transformer)) {}

  Status allocate() {
    TensorDevice& device = transformer_.device();
    const std::size_t saved =
        std::max(transformer_.saved_elements(BlockIndex(1)), transformer_.saved_elements(transformer_.head()));
    PLANARIA_ASSIGN(tokens_, device.allocate(transformer_.largest().rows() * sizeof(std::int32_t)));
    PLANARIA_ASSIGN(saved_, device.allocate_floats(saved));
    PLANARIA_ASSIGN(logits_, device.allocate_floats(transformer_.model().vocab));
    for (DeviceBuffer& buffer : boundary_) {
      PLANARIA_ASSIGN(buffer, device.allocate_floats(transformer_.boundary_elements()));
    }
    return ok_status();
  }

  Transformer transformer_;
  DeviceBuffer tokens_, saved_, logits_;
  DeviceBuffer boundary_[2];
};

}  // namespace

std::int32_t choose_token(std::span<const float> logits, const GenerateOptions& options, double draw) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)];
    const float y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  if (options.temperature <= 0) return *std::ranges::min_element(order, likelier);
  if (options.top_k > 0 && options.top_k < order.size()) {
    std::ranges::nth_element(order, order.begin() + options.top_k - 1, likelier);
    order.resize(options.top_k);
  }
  const double top = logits[static_cast<std::size_t>(*std::ranges::min_element(order, likelier))];
  std::vector<double> weights(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    weights[i] = det_exp((static_cast<double>(logits[static_cast<std::size_t>(order[i])]) - top) / options.temperature);
  }
  double rest = draw * std::accumulate(weights.begin(), weights.end(), 0.0);
  for (std::size_t i = 0; i < order.size(); ++i) {
    rest -= weights[i];
    if (rest < 0) return order[i];
  }
  return order.back();
}

Result<std::vector<std::int32_t>> generate(TensorDevice& device, const ModelSpec& model, const StateMap& map,
                                           const float* parameters, std::span<const std::int32_t> prompt,
                                           const GenerateOptions& options,
                                           const std::function<bool(std::int32_t)>& on_token) {
  if (prompt.empty()) return Error(ErrorCode::invalid_argument, "the prompt is empty: give at least one token");
  for (const std::int32_t token : prompt) {
    if (token < 0 || token >= static_cast<std::int64_t>(model.vocab)) {
      return Error(ErrorCode::invalid_argument, "the prompt has token " + std::to_string(token) +
                                                    ", but the model knows only " + std::to_string(model.vocab));
    }
  }
  PLANARIA_ASSIGN(Predictor predictor, Predictor::create(device, model, map));
  const std::uint64_t key = philox_key(options.seed, RandomPurpose::sampling);
  const auto kept = std::min<std::size_t>(prompt.size(), model.context);
  std::vector<std::int32_t> window(prompt.end() - static_cast<std::ptrdiff_t>(kept), prompt.end());
  std::vector<std::int32_t> text;
  std::vector<float> logits(model.vocab);
  while (text.size() < options.tokens) {
    PLANARIA_TRY(predictor.logits(parameters, window, logits));
    const PhiloxWords words = philox(key, 0, text.size());
    const double draw = static_cast<double>((std::uint64_t{words[1]} << 21) ^ (words[0] >> 11)) * 0x1.0p-53;
    const std::int32_t token = choose_token(logits, options, draw);
    text.push_back(token);
    if (on_token && !on_token(token)) break;
    if (window.size() == model.context) {
      window.erase(window.begin(), window.begin() + static_cast<std::ptrdiff_t>((window.size() + 1) / 2));
    }
    window.push_back(token);
  }
  return text;
}

}  // namespace planaria
