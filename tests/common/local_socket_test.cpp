#include "common/local_socket.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "common/shared_memory.hpp"

namespace planaria {
namespace {

std::vector<std::byte> message_of(std::size_t size, unsigned value) {
  return std::vector<std::byte>(size, static_cast<std::byte>(value));
}

// Two ends of a connection.
class LocalSockets : public testing::Test {
 protected:
  LocalSockets()
      : path_((std::filesystem::temp_directory_path() / ("planaria-" + std::to_string(::getpid()) + "-" +
                                                         testing::UnitTest::GetInstance()->current_test_info()->name()))
                  .string()),
        listener_(LocalListener::listen(path_)),
        near_(LocalSocket::connect(path_)),
        far_(listener_->accept()) {}

  const std::string path_;
  Result<LocalListener> listener_;
  Result<LocalSocket> near_, far_;
};

TEST_F(LocalSockets, MessagesStayApartAndInOrder) {
  ASSERT_TRUE(near_->send(message_of(10, 1)));
  ASSERT_TRUE(near_->send(message_of(kMaxLocalMessage, 2)));
  EXPECT_EQ(far_->receive()->bytes, message_of(10, 1));
  EXPECT_EQ(far_->receive()->bytes, message_of(kMaxLocalMessage, 2));
  ASSERT_TRUE(far_->send(message_of(1, 3)));
  EXPECT_EQ(near_->receive()->bytes, message_of(1, 3));
}

TEST_F(LocalSockets, MemoryIsHandedOver) {
  const auto memory = SharedMemory::create(4096);
  ASSERT_TRUE(near_->send(message_of(1, 1), &memory->descriptor()));
  memory->bytes()[17] = std::byte{9};
  auto message = far_->receive();
  ASSERT_TRUE(message);
  ASSERT_TRUE(message->handed);
  const auto same = SharedMemory::adopt(std::move(*message->handed));
  ASSERT_TRUE(same);
  EXPECT_EQ(same->bytes()[17], std::byte{9});
}

TEST_F(LocalSockets, TheOtherEndsDeathEndsTheConnection) {
  { const LocalSocket dies = std::move(*near_); }
  const auto received = far_->receive();
  ASSERT_FALSE(received);
  EXPECT_EQ(received.error().code(), ErrorCode::unavailable);
  const Status sent = far_->send(message_of(1, 1));
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code(), ErrorCode::unavailable);
}

TEST_F(LocalSockets, ClosingWakesWhoWaits) {
  std::thread closer([&] {
    far_->close();
    listener_->close();
  });
  EXPECT_FALSE(far_->receive());
  EXPECT_FALSE(listener_->accept());
  closer.join();
}

TEST_F(LocalSockets, OthersCantOpenTheListenersFile) {
  struct stat info {};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & (S_IRWXG | S_IRWXO), 0U);
}

TEST_F(LocalSockets, AMessageThatIsTooLongIsRefused) {
  // Past the class, as another program could.
  Descriptor raw(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path_.copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::connect(raw.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  auto end = listener_->accept();
  const auto longer = message_of(kMaxLocalMessage + 1, 1);
  ASSERT_EQ(::send(raw.get(), longer.data(), longer.size(), 0), static_cast<ssize_t>(longer.size()));
  const auto received = end->receive();
  ASSERT_FALSE(received);
  EXPECT_EQ(received.error().code(), ErrorCode::corrupt);
}

TEST(LocalListener, TakesThePlaceOfADeadOnesFileAndRemovesItsOwn) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("planaria-left-" + std::to_string(::getpid()))).string();
  {
    auto first = LocalListener::listen(path);
    ASSERT_TRUE(first);
    EXPECT_EQ(LocalListener::listen(path).error().code(), ErrorCode::unavailable) << "it is alive";
    first->close();
    const auto second = LocalListener::listen(path);
    ASSERT_TRUE(second);
    EXPECT_TRUE(LocalSocket::connect(path));
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  const auto nobody = LocalSocket::connect(path);
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code(), ErrorCode::unavailable);
}

TEST(LocalListener, APathThatIsTooLongIsRefused) {
  const auto listener = LocalListener::listen(std::string(200, 'x'));
  ASSERT_FALSE(listener);
  EXPECT_EQ(listener.error().code(), ErrorCode::invalid_argument);
}

}  // namespace
}  // namespace planaria
