// The fp32 engine against PyTorch in double precision: fixtures of tests/oracle/make_fixtures.py. Who includes this
// instantiates OracleTest with devices.
//
// Thread contract: each test has its own.
#pragma once

#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <ostream>
#include <string>
#include <tuple>

#include "model_test_support.hpp"
#include "worker/model/transformer.hpp"

namespace planaria {
namespace {

using Records = std::map<std::string, std::vector<double>>;

template <class T>
T read_value(std::istream& in) {
  T value{};
  in.read(reinterpret_cast<char*>(&value), sizeof value);
  return value;
}

Records read_fixture(const std::string& family) {
  std::ifstream in(std::string(PLANARIA_ORACLE_DIR) + "/" + family + ".bin", std::ios::binary);
  EXPECT_TRUE(in.good());
  Records records;
  while (in.peek() != std::char_traits<char>::eof()) {
    std::string name(read_value<std::uint32_t>(in), ' ');
    in.read(name.data(), static_cast<std::streamsize>(name.size()));
    const auto size = read_value<std::uint32_t>(in);
    std::vector<double> values(read_value<std::uint64_t>(in));
    for (double& value : values) value = size == 4 ? read_value<float>(in) : read_value<double>(in);
    records[name] = std::move(values);
  }
  return records;
}

std::uint32_t mix(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x85EBCA6BU;
  x = (x ^ (x >> 13)) * 0xC2B2AE35U;
  return x ^ (x >> 16);
}

struct OracleDevice {
  std::string name;
  std::function<std::unique_ptr<TensorDevice>()> make;  // null: there is none here
};
// Without it the names of tests hold bytes of the function, others in each process.
void PrintTo(const OracleDevice& device, std::ostream* out) {
  *out << device.name;
}

class OracleTest : public ::testing::TestWithParam<std::tuple<ModelFamily, OracleDevice>> {
 protected:
  void SetUp() override {
    device_ = std::get<OracleDevice>(GetParam()).make();
    if (!device_) GTEST_SKIP() << "no device for " << std::get<OracleDevice>(GetParam()).name;
    trainer_ = trainer_of(*device_, job_);
    std::vector<float> parameters = trainer_->parameters_on_host();
    std::uint32_t index = 0;
    for (const BlockInfo& block : trainer_->map().blocks()) {
      for (const TensorInfo& tensor : block.tensors) {
        if (tensor.tied) continue;
        float* values = parameters.data() + block.offset + tensor.offset;
        const bool gain = tensor.name.find("norm") != std::string::npos && tensor.name.ends_with("weight");
        for (std::uint32_t i = 0; i < tensor.elements(); ++i) {
          const double uniform = (static_cast<double>(mix(i + index * 1000003U) >> 8) * 0x1.0p-24 - 0.5) * 0.25;
          values[i] = static_cast<float>(gain ? 1.0 + uniform : uniform);
        }
        ++index;
      }
    }
    ASSERT_TRUE(trainer_->start_from(parameters).ok());
    after_update(*device_, trainer_->map(), trainer_->parameters());
  }

  [[nodiscard]] static ModelFamily family() { return std::get<ModelFamily>(GetParam()); }
  [[nodiscard]] std::vector<float> on_host(const float* values, std::size_t count) const {
    std::vector<float> host(count);
    device_->copy_out(host.data(), values, count * sizeof(float));
    EXPECT_TRUE(device_->synchronize().ok());
    return host;
  }

  JobSpec job_ = small_job(family(), family() == ModelFamily::gpt2);
  Records fixture_ = read_fixture(std::string(to_string(family())));
  std::unique_ptr<TensorDevice> device_;
  std::unique_ptr<BareTrainer> trainer_;
};

inline std::string name_of_oracle(const testing::TestParamInfo<std::tuple<ModelFamily, OracleDevice>>& info) {
  return std::string(to_string(std::get<ModelFamily>(info.param))) + "_" + std::get<OracleDevice>(info.param).name;
}

// fp32 rounding: 2^-24 an operation, growing with the root of the terms of a sum (at most 4·32·16 here) over some 20
// dependent sums: 20 · sqrt(2048) · 2^-24 = 5e-5 of a tensor's scale in the worst case; its root mean square far less.
TEST_P(OracleTest, GradientsAgree) {
  ASSERT_TRUE(trainer_->accumulate_gradient().ok());
  add_tied_gradient(*device_, trainer_->map(), trainer_->gradient());
  const std::vector<float> gradient = on_host(trainer_->gradient(), trainer_->map().vector_elements());
  for (const BlockInfo& block : trainer_->map().blocks()) {
    for (const TensorInfo& tensor : block.tensors) {
      if (tensor.tied) continue;
      const std::vector<double>& expected = fixture_.at("gradient." + block.name + "." + tensor.name);
      ASSERT_EQ(expected.size(), tensor.elements());
      const float* actual = gradient.data() + block.offset + tensor.offset;
      double largest = 0;
      double difference = 0;
      for (std::size_t i = 0; i < expected.size(); ++i) {
        largest = std::max(largest, std::abs(expected[i]));
        difference = std::max(difference, std::abs(expected[i] - actual[i]));
      }
      EXPECT_LE(difference, 5e-5 * largest) << block.name << "." << tensor.name;
    }
  }
}

TEST_P(OracleTest, FiftyTrainingStepsHaveTheSameLosses) {
  const std::vector<double>& losses = fixture_.at("losses");
  const std::vector<double>& norms = fixture_.at("norms");
  double worst = 0;
  for (std::size_t t = 0; t < losses.size(); ++t) {
    const auto report = trainer_->step();
    ASSERT_TRUE(report.ok());
    EXPECT_NEAR(report->loss, losses[t], 1e-4 * losses[t]) << "step " << t + 1;
    EXPECT_NEAR(report->gradient_norm, norms[t], 1e-3 * norms[t]) << "step " << t + 1;
    worst = std::max(worst, std::abs(report->loss / losses[t] - 1.0));
  }
  std::printf("largest relative difference of the loss: %.2e\n", worst);
}

TEST_P(OracleTest, LogitsAgree) {
  auto model = Transformer::create(*device_, job_.model, trainer_->map(), {2, job_.model.context}, 0);
  ASSERT_TRUE(model.ok());
  HostBatch host;
  pattern_source(job_)(Step(1), MicroBatchIndex(0), host);
  const auto buffer = [&](std::size_t elements) {
    auto made = device_->allocate_floats(elements);
    EXPECT_TRUE(made.ok());
    return std::move(made).value();
  };
  const DeviceBuffer tokens = buffer(host.tokens.size());
  device_->copy_in(tokens.data(), host.tokens.data(), host.tokens.size() * sizeof(std::int32_t));
  MicroBatch batch;
  batch.shape = {2, job_.model.context};
  batch.tokens = static_cast<const std::int32_t*>(tokens.data());
  batch.training = false;
  const DeviceBuffer boundary[2] = {buffer(model->boundary_elements()), buffer(model->boundary_elements())};
  const DeviceBuffer saved =
      buffer(std::max(model->saved_elements(BlockIndex(1)), model->saved_elements(model->head())));
  const auto blocks = trainer_->map().blocks();
  for (std::uint32_t b = 0; b < model->head().value(); ++b) {
    model->forward(BlockIndex(b), batch, trainer_->parameters() + blocks[b].offset, boundary[(b + 1) % 2].floats(),
                   boundary[b % 2].floats(), saved.floats());
  }
  const DeviceBuffer logits = buffer(job_.model.vocab);
  const float* last = boundary[(model->head().value() + 1) % 2].floats() + model->boundary_elements();
  model->row_logits(trainer_->parameters() + blocks.back().offset, last - job_.model.width, saved.floats(),
                    logits.floats());
  const std::vector<float> actual = on_host(logits.floats(), job_.model.vocab);
  const std::vector<double>& expected = fixture_.at("last_row_logits");
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(actual[i], expected[i], 5e-6);
}

}  // namespace
}  // namespace planaria
