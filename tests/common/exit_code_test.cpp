#include "common/exit_code.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

TEST(ExitCode, TheErrorBehindACodeHasThatCode) {
  EXPECT_FALSE(error_code_of_exit(0));
  for (int code = 1; code <= 6; ++code) {
    const auto error = error_code_of_exit(code);
    ASSERT_TRUE(error) << code;
    EXPECT_EQ(static_cast<int>(exit_code_of(*error)), code);
  }
  EXPECT_EQ(error_code_of_exit(77), ErrorCode::internal);
}

}  // namespace
}  // namespace planaria
