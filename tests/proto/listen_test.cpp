#include "proto/listen.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace planaria {
namespace {

using testing::HasSubstr;

TEST(Listen, BeyondLoopbackNeedsATokenAndTlsOrTheOperatorsWord) {
  auto job = JobSpec{};
  EXPECT_TRUE(check_listen(job));
  job.cluster.listen = "0.0.0.0";
  const auto refused = check_listen(job);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message(), HasSubstr("security.join_token"));
  job.security.join_token = "secret";
  EXPECT_FALSE(check_listen(job));
  job.security.tls_certificate = job.security.tls_key = job.security.tls_authority = "x.pem";
  EXPECT_TRUE(check_listen(job));
  job.security = {};
  job.security.insecure = true;
  EXPECT_TRUE(check_listen(job));
}

TEST(Listen, WrongAddressesAndHalfATlsAreRefused) {
  auto job = JobSpec{};
  job.cluster.listen = "localhost";
  EXPECT_FALSE(check_listen(job));
  job = JobSpec{};
  job.security.tls_key = "key.pem";
  EXPECT_FALSE(check_listen(job));
  EXPECT_TRUE(is_loopback("127.3.2.1") && is_loopback("::1"));
  EXPECT_FALSE(is_loopback("::") || is_loopback("10.0.0.1"));
}

}  // namespace
}  // namespace planaria
