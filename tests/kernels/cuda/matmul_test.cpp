// Every kind of matrix product against the double reference, and the promises of the kernel table: the same bits again,
// from an adopted entry as from a chosen one.
#include "kernels/cuda/matmul.hpp"

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "common/philox.hpp"
#include "kernels/reference/reference.hpp"

namespace planaria::cuda {
namespace {

using reference::Values;

constexpr MatmulShape dense{MatmulKind::forward, 128, 64, 96, 96, false};
constexpr MatmulShape padded{MatmulKind::forward, 128, 64, 97, 104, false};  // as a vocabulary is
constexpr float untouched = 1234.0F;

MatmulShape with(MatmulShape shape, MatmulKind kind, bool bias = false) {
  shape.kind = kind;
  shape.bias = bias;
  return shape;
}
std::vector<MatmulShape> every_kind() {
  return {with(dense, MatmulKind::forward, true),      with(padded, MatmulKind::forward),
          with(dense, MatmulKind::forward_gelu, true), with(dense, MatmulKind::input_gradient),
          with(padded, MatmulKind::input_gradient),    with(dense, MatmulKind::input_dgelu),
          with(dense, MatmulKind::weight_gradient),    with(padded, MatmulKind::weight_gradient)};
}

template <class T>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<T>& values) : count_(values.size()) {
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, count_ * sizeof(T)), cudaSuccess);
    memory_.reset(memory);
    EXPECT_EQ(cudaMemcpy(memory, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice), cudaSuccess);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);  // the stream of the products doesn't wait for the default one
  }
  [[nodiscard]] T* get() const { return static_cast<T*>(memory_.get()); }
  [[nodiscard]] std::vector<T> read() const {
    std::vector<T> values(count_);
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(values.data(), memory_.get(), count_ * sizeof(T), cudaMemcpyDeviceToHost), cudaSuccess);
    return values;
  }

 private:
  struct Free {
    void operator()(void* memory) const { (void)cudaFree(memory); }
  };
  std::size_t count_;
  std::unique_ptr<void, Free> memory_;
};

using Halves = std::vector<__nv_bfloat16>;

// Rows of `width` values, `stride` apart; between them `filler`.
Halves spread(const Values& dense_values, std::size_t width, std::size_t stride, float filler) {
  Halves out(dense_values.size() / width * stride, __float2bfloat16(filler));
  for (std::size_t i = 0; i < dense_values.size(); ++i) {
    out[i / width * stride + i % width] = __float2bfloat16(static_cast<float>(dense_values[i]));
  }
  return out;
}
Values gathered(const Halves& values, std::size_t width, std::size_t stride) {
  Values out;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i % stride < width) out.push_back(static_cast<double>(__bfloat162float(values[i])));
  }
  return out;
}
Values absolute(Values values) {
  for (double& value : values) value = std::abs(value);
  return values;
}

// Operands of one shape: bf16 values in host memory as doubles, and what a call computes from them on the device.
struct Problem {
  explicit Problem(const MatmulShape& s) : shape(s) {
    const std::size_t rows = s.rows, in = s.in, out = s.out;
    x = draw(rows * in, 1), weight = draw(out * in, 1), dy = draw(rows * out, 1);
    bias = s.bias ? draw(out, 1) : Values();
    u = draw(rows * in, 2);
    d_weight = draw(out * in, 1);
  }

  Values draw(std::size_t count, float magnitude) {
    Values values(count);
    for (double& value : values) {
      const float drawn = magnitude * (2.0F * unit_float(random.next_u32()) - 1.0F);
      value = static_cast<double>(__bfloat162float(__float2bfloat16(drawn)));
    }
    return values;
  }

  LinearShape linear() const { return {shape.rows, shape.in, shape.out}; }
  bool is_forward() const { return shape.kind == MatmulKind::forward || shape.kind == MatmulKind::forward_gelu; }

  PhiloxStream random{philox_key(17, RandomPurpose::tests)};
  MatmulShape shape;
  Values x, weight, bias, dy, u, d_weight;
};

struct Outputs {
  Halves y, u, dx;
  std::vector<float> d_weight;
  bool operator==(const Outputs& other) const {
    const auto same = [](const auto& a, const auto& b) {
      return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
    };
    return same(y, other.y) && same(u, other.u) && same(dx, other.dx) && same(d_weight, other.d_weight);
  }
};

class CudaMatmul : public testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess) GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(status);
    if (devices == 0) GTEST_SKIP() << "no CUDA device";
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    table = make_table();
    ASSERT_NE(table, nullptr);
  }
  void TearDown() override {
    table.reset();
    if (stream != nullptr) (void)cudaStreamDestroy(stream);
  }

  std::unique_ptr<MatmulTable> make_table() const {
    auto made = MatmulTable::create(stream);
    EXPECT_TRUE(made.ok()) << made.error().describe();
    return made ? std::make_unique<MatmulTable>(std::move(made).value()) : nullptr;
  }

  void choose(const MatmulShape& shape) {
    const Status status = table->choose(shape);
    ASSERT_TRUE(status.ok()) << status.error().describe();
  }

  static std::vector<std::byte> encoded(const MatmulTable& of) {
    auto bytes = of.choices();
    EXPECT_TRUE(bytes.ok());
    return bytes ? std::move(bytes).value() : std::vector<std::byte>();
  }
  std::vector<std::byte> choices() const { return encoded(*table); }
  static void adopt(MatmulTable& target, const std::vector<std::byte>& bytes) {
    const Status status = target.adopt(bytes);
    ASSERT_TRUE(status.ok()) << status.error().describe();
  }
  static void expect_error(const Status& status, ErrorCode code) {
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code(), code) << status.error().describe();
  }

  // What lies between the rows of dy must not be read: it is NaN.
  static Outputs compute(MatmulTable& table, const Problem& p, bool begin = false) {
    const MatmulShape& s = p.shape;
    const std::size_t rows = s.rows;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const OnDevice x(spread(p.x, s.in, s.in, 0)), weight(spread(p.weight, s.in, s.in, 0));
    const OnDevice bias(p.bias.empty() ? Halves(1) : spread(p.bias, s.out, s.out, 0));
    const OnDevice dy(spread(p.dy, s.out, s.out_stride, nan));
    const OnDevice u_in(spread(p.u, s.in, s.in, 0));
    const OnDevice y(Halves(rows * s.out_stride, __float2bfloat16(untouched)));
    const OnDevice u_out(Halves(rows * s.out_stride, __float2bfloat16(untouched)));
    const OnDevice dx(Halves(rows * s.in));
    const OnDevice d_weight(std::vector<float>(p.d_weight.begin(), p.d_weight.end()));

    MatmulOperands o;
    o.x = x.get(), o.weight = weight.get(), o.dy = dy.get();
    o.bias = s.bias ? bias.get() : nullptr;
    o.u = p.is_forward() ? u_out.get() : u_in.get();
    o.y = y.get(), o.dx = dx.get(), o.d_weight = d_weight.get(), o.begin = begin;
    const Status status = table.multiply(s, o);
    EXPECT_TRUE(status.ok()) << status.error().describe();
    return {y.read(), u_out.read(), dx.read(), d_weight.read()};
  }
  Outputs choose_and_compute(const Problem& p) {
    choose(p.shape);
    return HasFatalFailure() ? Outputs() : compute(*table, p);
  }

  cudaStream_t stream = nullptr;
  std::unique_ptr<MatmulTable> table;
};

// fp32 sums of `terms` products in any order, some of whose additions truncate: each adds at most an ulp of a partial
// sum, which is no larger than the sum of magnitudes. One bit more for the operand's alignment inside a tensor core.
double accumulation(std::size_t terms, double magnitudes) {
  return static_cast<double>(terms + 1) * 0x1.0p-22 * magnitudes;
}
constexpr double half = 0x1.0p-8;        // bf16 has 8 bits: rounding adds at most this, relatively
constexpr double steepest_gelu = 1.13;   // its slope's maximum
constexpr double fast_tanh = 0x1.0p-11;  // PTX: the relative error of tanh.approx.f32

template <class Bound>
void expect_within(const Values& actual, const Values& expected, const Bound& bound) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) ASSERT_NEAR(actual[i], expected[i], bound(i)) << "element " << i;
}

TEST_F(CudaMatmul, ForwardAgreesWithReference) {
  for (const MatmulShape& s : {with(dense, MatmulKind::forward), with(dense, MatmulKind::forward, true),
                               with(padded, MatmulKind::forward), with(padded, MatmulKind::forward, true)}) {
    SCOPED_TRACE(describe(s));
    const Problem p(s);
    const Outputs out = choose_and_compute(p);
    const Values y = reference::linear(p.linear(), p.x, p.weight, p.bias);
    const Values sums = reference::linear(p.linear(), absolute(p.x), absolute(p.weight), absolute(p.bias));
    expect_within(gathered(out.y, s.out, s.out_stride), y, [&](std::size_t i) {
      const double sum_error = accumulation(s.in, sums[i]);
      return half * (std::abs(y[i]) + sum_error) + sum_error;
    });
  }
}

TEST_F(CudaMatmul, ForwardLeavesPaddedColumnsAlone) {
  const Problem p(with(padded, MatmulKind::forward));
  const Outputs out = choose_and_compute(p);
  for (std::size_t i = 0; i < out.y.size(); ++i) {
    if (i % padded.out_stride < padded.out) continue;
    ASSERT_EQ(__bfloat162float(out.y[i]), __bfloat162float(__float2bfloat16(untouched))) << "element " << i;
  }
}

TEST_F(CudaMatmul, ForwardGeluKeepsItsInputAndAgreesWithReference) {
  for (const bool bias : {false, true}) {
    const MatmulShape s = with(dense, MatmulKind::forward_gelu, bias);
    SCOPED_TRACE(describe(s));
    const Problem p(s);
    const Outputs out = choose_and_compute(p);
    const Values u = reference::linear(p.linear(), p.x, p.weight, p.bias);
    const Values sums = reference::linear(p.linear(), absolute(p.x), absolute(p.weight), absolute(p.bias));
    const Values y = reference::gelu(u);
    // Whether gelu sees u before or after its rounding is the library's choice.
    const auto u_error = [&](std::size_t i) {
      const double sum_error = accumulation(s.in, sums[i]);
      return half * (std::abs(u[i]) + sum_error) + sum_error;
    };
    expect_within(gathered(out.u, s.out, s.out_stride), u, u_error);
    expect_within(gathered(out.y, s.out, s.out_stride), y, [&](std::size_t i) {
      const double error = steepest_gelu * u_error(i) + 0.5 * (std::abs(u[i]) + u_error(i)) * fast_tanh;
      return half * (std::abs(y[i]) + error) + error;
    });
  }
}

TEST_F(CudaMatmul, InputGradientAgreesWithReference) {
  for (const MatmulShape& s : {with(dense, MatmulKind::input_gradient), with(padded, MatmulKind::input_gradient)}) {
    SCOPED_TRACE(describe(s));
    const Problem p(s);
    const Outputs out = choose_and_compute(p);
    const Values dx = reference::linear_backward(p.linear(), p.dy, p.x, p.weight).x;
    const Values sums = reference::linear_backward(p.linear(), absolute(p.dy), p.x, absolute(p.weight)).x;
    expect_within(gathered(out.dx, s.in, s.in), dx, [&](std::size_t i) {
      const double sum_error = accumulation(s.out, sums[i]);
      return half * (std::abs(dx[i]) + sum_error) + sum_error;
    });
  }
}

TEST_F(CudaMatmul, InputDgeluAgreesWithReference) {
  const MatmulShape s = with(dense, MatmulKind::input_dgelu);
  const Problem p(s);
  const Outputs out = choose_and_compute(p);
  const Values product = reference::linear_backward(p.linear(), p.dy, p.x, p.weight).x;
  const Values sums = reference::linear_backward(p.linear(), absolute(p.dy), p.x, absolute(p.weight)).x;
  const Values dx = reference::gelu_backward(p.u, product);
  expect_within(gathered(out.dx, s.in, s.in), dx, [&](std::size_t i) {
    // gelu' = (1 + t) / 2 + u (1 - t²) c / 2 with c = sqrt(2/pi) (1 + 3 · 0.044715 u²): by how much an error of t moves
    // it.
    const double u = p.u[i];
    const double c = 0.8 * (1 + 0.1342 * u * u);
    const double slope_error = (0.5 + std::abs(u) * c) * fast_tanh;
    // The product may be rounded to bf16 before it is multiplied.
    const double sum_error = accumulation(s.out, sums[i]);
    const double product_error = half * (std::abs(product[i]) + sum_error) + sum_error;
    const double error = steepest_gelu * product_error + slope_error * (std::abs(product[i]) + product_error);
    return half * (std::abs(dx[i]) + error) + error;
  });
}

TEST_F(CudaMatmul, WeightGradientAddsToWhatIsThere) {
  for (const MatmulShape& s : {with(dense, MatmulKind::weight_gradient), with(padded, MatmulKind::weight_gradient)}) {
    SCOPED_TRACE(describe(s));
    const Problem p(s);
    const Outputs out = choose_and_compute(p);
    Values expected = reference::linear_backward(p.linear(), p.dy, p.x, p.weight).weight;
    Values sums = reference::linear_backward(p.linear(), absolute(p.dy), absolute(p.x), p.weight).weight;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      expected[i] += p.d_weight[i];
      sums[i] += std::abs(p.d_weight[i]);
    }
    expect_within(reference::widen(out.d_weight), expected,
                  [&](std::size_t i) { return accumulation(s.rows + 1, sums[i]); });
  }
}

TEST_F(CudaMatmul, AWeightGradientThatBeginsIsOneThatIsAddedToZeros) {
  for (const MatmulShape& s : {with(dense, MatmulKind::weight_gradient), with(padded, MatmulKind::weight_gradient)}) {
    SCOPED_TRACE(describe(s));
    Problem p(s);
    p.d_weight.assign(p.d_weight.size(), 0);
    const Outputs added = choose_and_compute(p);
    p.d_weight.assign(p.d_weight.size(), std::numeric_limits<double>::quiet_NaN());
    EXPECT_EQ(compute(*table, p, true).d_weight, added.d_weight);
  }
}

TEST_F(CudaMatmul, RepeatedCallsGiveEqualBits) {
  for (const MatmulShape& s : every_kind()) {
    SCOPED_TRACE(describe(s));
    const Problem p(s);
    const Outputs first = choose_and_compute(p);
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(compute(*table, p) == first) << "run " << i;
  }
}

TEST_F(CudaMatmul, AdoptedChoicesGiveTheBitsOfTheTableThatMadeThem) {
  std::vector<Outputs> expected;
  for (const MatmulShape& s : every_kind()) expected.push_back(choose_and_compute(Problem(s)));
  const auto other = make_table();
  ASSERT_NE(other, nullptr);
  adopt(*other, choices());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const MatmulShape shape = every_kind()[i];
    SCOPED_TRACE(describe(shape));
    EXPECT_TRUE(other->choose(shape).ok());
    EXPECT_TRUE(compute(*other, Problem(shape)) == expected[i]);
  }
  EXPECT_EQ(encoded(*other), choices());
}

TEST_F(CudaMatmul, ChoicesAreAdoptedInPlaceOfOwnOnes) {
  const Problem p(with(dense, MatmulKind::weight_gradient));
  const auto other = make_table();
  ASSERT_NE(other, nullptr);
  ASSERT_TRUE(other->choose(p.shape).ok());
  choose(padded);
  const Outputs chosen = choose_and_compute(p);
  adopt(*other, choices());
  EXPECT_TRUE(compute(*other, p) == chosen);
}

TEST_F(CudaMatmul, WhatAdoptedChoicesLackIsAMismatch) {
  choose(dense);
  const auto other = make_table();
  ASSERT_NE(other, nullptr);
  adopt(*other, choices());
  expect_error(other->choose(padded), ErrorCode::mismatch);
  const auto third = make_table();
  ASSERT_NE(third, nullptr);
  ASSERT_TRUE(third->choose(padded).ok());
  expect_error(third->adopt(choices()), ErrorCode::mismatch);
  EXPECT_TRUE(third->choose(dense).ok());  // it still measures
}

TEST_F(CudaMatmul, ChoicesOfAnotherGpuOrLibraryAreAMismatch) {
  choose(dense);
  for (int field = 0; field < 3; ++field) {
    auto read = decode_choices(choices());
    ASSERT_TRUE(read.ok());
    if (field == 0) read->origin.gpu += " NVL";
    if (field == 1) --read->origin.multiprocessors;
    if (field == 2) ++read->origin.version;
    expect_error(table->adopt(encode_choices(*read).value()), ErrorCode::mismatch);
  }
  EXPECT_TRUE(table->choose(padded).ok());
}

TEST_F(CudaMatmul, BytesThatAreNoAlgorithmAreUnsupported) {
  choose(dense);
  auto read = decode_choices(choices());
  ASSERT_TRUE(read.ok());
  read->choices.front().algorithm = {};
  expect_error(table->adopt(encode_choices(*read).value()), ErrorCode::unsupported);
  EXPECT_TRUE(table->entries().contains(dense));
}

// Whoever makes a right hash over wrong bits gets an error or an algorithm that runs.
TEST_F(CudaMatmul, NoBitOfAnAlgorithmMakesAdoptionFailHard) {
  const Problem p(with(padded, MatmulKind::weight_gradient));
  choose(p.shape);
  const auto good = decode_choices(choices());
  ASSERT_TRUE(good.ok());
  for (std::size_t bit = 0; bit < 8 * sizeof(MatmulChoice::algorithm); ++bit) {
    MatmulChoices flipped = *good;
    flipped.choices.front().algorithm[bit / 64] ^= std::uint64_t{1} << (bit % 64);
    const Status status = table->adopt(encode_choices(flipped).value());
    if (status) continue;
    EXPECT_EQ(status.error().code(), ErrorCode::unsupported) << "bit " << bit;
  }
  adopt(*table, choices());
}

TEST_F(CudaMatmul, DamagedChoicesAreCorrupt) {
  choose(dense);
  std::vector<std::byte> bytes = choices();
  bytes[bytes.size() / 2] ^= std::byte{4};
  expect_error(table->adopt(bytes), ErrorCode::corrupt);
  expect_error(table->adopt({}), ErrorCode::corrupt);
  EXPECT_TRUE(table->entries().contains(dense));
}

TEST_F(CudaMatmul, ShapesThatContradictThemselvesAreRefused) {
  MatmulShape none = with(dense, MatmulKind::forward), narrow = none, ragged = with(dense, MatmulKind::forward_gelu);
  none.rows = 0;
  narrow.out_stride = narrow.out - 1;
  ragged.out_stride = ragged.out + 1;
  for (const MatmulShape& s :
       {none, narrow, ragged, with(dense, MatmulKind::weight_gradient, true), with(dense, MatmulKind::count_)}) {
    const Status status = table->choose(s);
    ASSERT_FALSE(status.ok()) << describe(s);
    EXPECT_EQ(status.error().code(), ErrorCode::invalid_argument);
  }
}

TEST_F(CudaMatmul, ShapeThatWasNotChosenIsAnError) {
  const Status status = table->multiply(with(dense, MatmulKind::forward), {});
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code(), ErrorCode::internal);
}

}  // namespace
}  // namespace planaria::cuda
