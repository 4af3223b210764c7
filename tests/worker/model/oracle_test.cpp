// The CPU against PyTorch.
#include "oracle_suite.hpp"

namespace planaria {
namespace {

INSTANTIATE_TEST_SUITE_P(Families, OracleTest,
                         ::testing::Combine(::testing::Values(ModelFamily::gpt2, ModelFamily::llama),
                                            ::testing::Values(OracleDevice{"cpu", [] { return cpu(); }})),
                         name_of_oracle);

}  // namespace
}  // namespace planaria
