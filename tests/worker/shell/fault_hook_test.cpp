#include "worker/shell/fault_hook.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <future>

#include "tests/temporary_directory.hpp"

namespace planaria {
namespace {

template <class T>
T parsed(std::string_view line) {
  const auto command = parse_fault_command(line);
  EXPECT_TRUE(command.ok()) << line;
  return std::get<T>(*command);
}

TEST(FaultCommand, EachFormIsUnderstood) {
  EXPECT_EQ(parsed<fault_command::Arm>("arm 12 gate").step, Step(12));
  EXPECT_EQ(parsed<fault_command::Arm>("arm 12 gate").phase, Phase::gate);
  (void)parsed<fault_command::Go>("go");
  EXPECT_DOUBLE_EQ(parsed<fault_command::Slow>("slow 0.25").fraction, 0.25);
  EXPECT_EQ(parsed<fault_command::Nan>("nan 3").step, Step(3));
  EXPECT_DOUBLE_EQ(parsed<fault_command::DiskFull>("disk_full 1.5").seconds, 1.5);
  EXPECT_TRUE(parsed<fault_command::Block>("block 2").blocked);
  EXPECT_EQ(parsed<fault_command::Block>("unblock coordinator").peer, std::nullopt);
  (void)parsed<fault_command::CorruptNext>("corrupt_next");
}

TEST(FaultCommand, LinksNameAPeerOrAll) {
  const auto link = parsed<fault_command::Link>("link 3 20 0.1 100 0.01 0.02 in");
  EXPECT_EQ(link.peer, WorkerId(3));
  EXPECT_DOUBLE_EQ(link.delay_ms, 20);
  EXPECT_DOUBLE_EQ(link.loss, 0.1);
  EXPECT_DOUBLE_EQ(link.rate_mbit, 100);
  EXPECT_DOUBLE_EQ(link.corrupt, 0.01);
  EXPECT_DOUBLE_EQ(link.duplicate, 0.02);
  EXPECT_EQ(link.direction, fault_command::Direction::in);
  EXPECT_EQ(parsed<fault_command::Link>("link * 0 0 0 0 0 both").peer, std::nullopt);
}

class RefusedFaultCommand : public ::testing::TestWithParam<const char*> {};
TEST_P(RefusedFaultCommand, IsRefusedWithAReason) {
  const auto command = parse_fault_command(GetParam());
  ASSERT_FALSE(command.ok());
  EXPECT_FALSE(command.error().message().empty());
}
INSTANTIATE_TEST_SUITE_P(Lines, RefusedFaultCommand,
                         ::testing::Values("", " ", "stop", "go now", "arm 0 gate", "arm 1 idle", "arm 1", "arm x gate",
                                           "slow 0", "slow 1.5", "slow nan", "slow inf", "link 1 2 3 4 5 6 in",
                                           "link 1 0 0 0 0 0 up", "link -1 0 0 0 0 0 in", "block everyone", "nan 0",
                                           "disk_full -1", "arm 99999999999999999999 gate"));

class FaultHookTest : public ::testing::Test {
 protected:
  FaultHookTest() {
    listener_ = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path_.c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(listener_, 1), 0);
    auto hook = FaultHook::connect(
        path_,
        [this](const FaultCommand& command) -> Status {
          commands_.push_back(command);
          return ok_status();
        },
        [this] { ++goes_; });
    EXPECT_TRUE(hook.ok());
    hook_ = std::move(hook).value();
    chaos_ = ::accept(listener_, nullptr, nullptr);
    EXPECT_EQ(hear(), "hello " + std::to_string(::getpid()));
  }
  ~FaultHookTest() override {
    hook_.reset();
    if (chaos_ >= 0) ::close(chaos_);
    ::close(listener_);
  }
  void say(const std::string& line) const {
    const std::string text = line + "\n";
    ASSERT_EQ(::send(chaos_, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }
  std::string hear() const {
    std::string line;
    char c = 0;
    while (::recv(chaos_, &c, 1, 0) == 1 && c != '\n') line.push_back(c);
    return line;
  }

  const TemporaryDirectory folder_;
  const std::string path_ = folder_.path("hook");
  int listener_ = -1;
  int chaos_ = -1;
  std::vector<FaultCommand> commands_;
  std::atomic<int> goes_{0};
  std::unique_ptr<FaultHook> hook_;
};

TEST_F(FaultHookTest, AnArmedPointIsAnnouncedOnceAndOnlyItself) {
  say("arm 2 gate");
  EXPECT_EQ(hear(), "ok arm 2 gate");
  EXPECT_FALSE(hook_->entered(Step(1), Phase::gate));
  EXPECT_FALSE(hook_->entered(Step(2), Phase::reduce));
  EXPECT_TRUE(hook_->entered(Step(2), Phase::gate));
  EXPECT_EQ(hear(), "phase 2 gate");
  EXPECT_FALSE(hook_->entered(Step(2), Phase::gate));
}

TEST_F(FaultHookTest, APointThatWasSkippedIsAnnouncedWithTheNext) {
  say("arm 2 commit");
  EXPECT_EQ(hear(), "ok arm 2 commit");
  EXPECT_TRUE(hook_->entered(Step(3), Phase::forward));
  EXPECT_EQ(hear(), "phase 2 commit");
}

TEST_F(FaultHookTest, ALatePointIsAnnouncedAtOnce) {
  EXPECT_FALSE(hook_->entered(Step(5), Phase::update));
  say("arm 4 reduce");
  EXPECT_EQ(hear(), "ok arm 4 reduce");
  EXPECT_EQ(hear(), "phase 4 reduce");
}

TEST_F(FaultHookTest, FetchIsMetWhenStateMovesForThatStepOrALaterOne) {
  say("arm 4 fetch");
  EXPECT_EQ(hear(), "ok arm 4 fetch");
  EXPECT_FALSE(hook_->entered(Step(3), Phase::fetch));
  EXPECT_FALSE(hook_->entered(Step(5), Phase::gate));  // no state moved
  EXPECT_TRUE(hook_->entered(Step(6), Phase::fetch));
  EXPECT_EQ(hear(), "phase 4 fetch");
  EXPECT_FALSE(hook_->entered(Step(7), Phase::fetch));
}

TEST_F(FaultHookTest, WhoTakesPartWithoutFetchingMeetsFetchAtItsFirstCommit) {
  say("arm 1 fetch");
  EXPECT_EQ(hear(), "ok arm 1 fetch");
  EXPECT_FALSE(hook_->entered(Step(3), Phase::gate));
  EXPECT_TRUE(hook_->entered(Step(3), Phase::commit));
  EXPECT_EQ(hear(), "phase 1 fetch");
  say("arm 4 fetch");
  EXPECT_EQ(hear(), "ok arm 4 fetch");
  EXPECT_FALSE(hook_->entered(Step(4), Phase::commit)) << "it has been there for long";
}

TEST_F(FaultHookTest, PassStandsStillUntilGo) {
  say("arm 1 forward");
  EXPECT_EQ(hear(), "ok arm 1 forward");
  auto passed = std::async(std::launch::async, [&] { hook_->pass(Step(1), Phase::forward); });
  EXPECT_EQ(hear(), "phase 1 forward");
  say("go");
  passed.get();
  EXPECT_EQ(goes_.load(), 1);
}

TEST_F(FaultHookTest, PassGoesOnWhenChaosIsGone) {
  say("arm 1 forward");
  EXPECT_EQ(hear(), "ok arm 1 forward");
  auto passed = std::async(std::launch::async, [&] { hook_->pass(Step(1), Phase::forward); });
  EXPECT_EQ(hear(), "phase 1 forward");
  ::close(std::exchange(chaos_, -1));
  passed.get();
}

TEST_F(FaultHookTest, OtherCommandsGoToTheHandlerAndAreAnswered) {
  say("slow 0.5");
  EXPECT_EQ(hear(), "ok slow 0.5");
  ASSERT_EQ(commands_.size(), 1U);
  say("explode");
  EXPECT_THAT(hear(), ::testing::StartsWith("error "));
}

TEST_F(FaultHookTest, AnEndlessLineEndsTheConnection) {
  std::string line(2000, 'x');
  ASSERT_EQ(::send(chaos_, line.data(), line.size(), MSG_NOSIGNAL), static_cast<ssize_t>(line.size()));
  EXPECT_THAT(hear(), ::testing::StartsWith("error a line is longer"));
}

TEST(FaultHookConnect, NobodyThereIsAnError) {
  EXPECT_FALSE(FaultHook::connect(
                   "/nonexistent/hook", [](const FaultCommand&) { return ok_status(); }, [] {})
                   .ok());
  EXPECT_FALSE(FaultHook::connect(
                   std::string(300, 'x'), [](const FaultCommand&) { return ok_status(); }, [] {})
                   .ok());
}

}  // namespace
}  // namespace planaria
