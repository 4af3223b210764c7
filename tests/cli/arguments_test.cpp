#include "cli/arguments.hpp"

#include <gtest/gtest.h>

namespace planaria {
namespace {

// What the validator makes of the text: the text it leaves, or "refused".
std::string read(const CLI::Validator& validator, std::string text) {
  return validator(text).empty() ? text : "refused";
}

TEST(WholeNumber, OnlyDigitsInTheRangeAreTaken) {
  const CLI::Validator three_to_ten = whole_number(3, 10);
  EXPECT_EQ(read(three_to_ten, "3"), "3");
  EXPECT_EQ(read(three_to_ten, "010"), "10");
  for (const char* text : {"2", "11", "-1", "", "4x", "0x4", "4.0", "18446744073709551620"}) {
    EXPECT_EQ(read(three_to_ten, text), "refused") << text;
  }
  EXPECT_EQ(read(whole_number(), "-1"), "refused");
}

TEST(Number, NegativeOnesAndNanAreOutsideOfTheRange) {
  const CLI::Validator share = number_between(0, 1);
  EXPECT_EQ(read(share, "0.5"), "0.5");
  for (const char* text : {"-1", "nan", "inf", "1.5", "half"}) EXPECT_EQ(read(share, text), "refused") << text;
}

}  // namespace
}  // namespace planaria
