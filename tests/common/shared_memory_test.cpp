#include "common/shared_memory.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

namespace planaria {
namespace {

Descriptor duplicate(const SharedMemory& memory) {
  return Descriptor(::dup(memory.descriptor().get()));
}

TEST(SharedMemory, BeginsAsZerosAndIsTheSameForWhoAdoptsIt) {
  auto memory = SharedMemory::create(100'000);
  ASSERT_TRUE(memory);
  EXPECT_TRUE(std::ranges::all_of(memory->bytes(), [](std::byte byte) { return byte == std::byte{}; }));
  auto other = SharedMemory::adopt(duplicate(*memory));
  ASSERT_TRUE(other);
  ASSERT_EQ(other->bytes().size(), 100'000U);
  memory->bytes()[99'999] = std::byte{7};
  EXPECT_EQ(other->bytes()[99'999], std::byte{7});
}

TEST(SharedMemory, OutlivesTheProcessThatWroteIt) {
  auto memory = SharedMemory::create(4096);
  const pid_t writer = ::fork();
  if (writer == 0) {
    memory->bytes()[5] = std::byte{42};
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(writer, &status, 0), writer);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(memory->bytes()[5], std::byte{42});
}

TEST(SharedMemory, NobodyChangesItsSize) {
  const auto memory = SharedMemory::create(8192);
  EXPECT_NE(::ftruncate(memory->descriptor().get(), 4096), 0);
  EXPECT_NE(::ftruncate(memory->descriptor().get(), 16384), 0);
}

TEST(SharedMemory, MoreThanThereIsIsRefused) {
  const auto memory = SharedMemory::create(std::size_t{1} << 60);
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().code(), ErrorCode::exhausted);
}

TEST(SharedMemory, OtherFilesAreNotAdopted) {
  const auto refused = [](int fd) {
    const auto memory = SharedMemory::adopt(Descriptor(fd));
    return !memory && memory.error().code() == ErrorCode::corrupt;
  };
  EXPECT_TRUE(refused(::open("/dev/zero", O_RDWR | O_CLOEXEC)));
  EXPECT_TRUE(refused(::memfd_create("resizable", MFD_CLOEXEC | MFD_ALLOW_SEALING)));
  EXPECT_TRUE(refused(-1));
}

TEST(SharedMemory, MovesWithItsHandle) {
  auto a = SharedMemory::create(4096);
  auto b = SharedMemory::create(8192);
  a->bytes()[0] = std::byte{1};
  *b = std::move(*a);
  EXPECT_EQ(b->bytes().size(), 4096U);
  EXPECT_EQ(b->bytes()[0], std::byte{1});
}

}  // namespace
}  // namespace planaria
