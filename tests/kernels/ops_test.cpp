// Every op of the CPU device, for both instruction sets.
#include "tests/kernels/tensor_ops_suite.hpp"

namespace planaria::kernels_test {
namespace {

INSTANTIATE_TEST_SUITE_P(Cpu, TensorOps,
                         testing::Values(TestedDevice{"baseline", [] { return make_device(2, CpuIsa::baseline); }},
                                         TestedDevice{"best", [] { return make_device(2, CpuIsa::best); }}),
                         name_of);

}  // namespace
}  // namespace planaria::kernels_test
