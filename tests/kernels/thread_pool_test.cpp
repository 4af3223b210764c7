#include "kernels/cpu/thread_pool.hpp"

#include <gtest/gtest.h>
#include <immintrin.h>

#include <vector>

namespace planaria {
namespace {

TEST(ThreadPool, EveryPieceRunsOnceForAnyThreadCount) {
  for (const std::size_t threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (std::size_t pieces : {0, 1, 2, 7, 100}) {
      std::vector<int> runs(pieces);
      pool.run(pieces, [&](std::size_t piece, std::size_t thread) {
        ASSERT_LT(thread, threads);
        ++runs[piece];
      });
      EXPECT_EQ(runs, std::vector<int>(pieces, 1));
    }
  }
}

TEST(ThreadPool, WritesOfOneCallAreSeenByTheNext) {
  ThreadPool pool(4);
  std::vector<std::size_t> values(64);
  for (std::size_t round = 1; round <= 500; ++round) {
    pool.run(values.size(), [&](std::size_t piece, std::size_t) { values[piece] += (piece + 1) * round; });
    pool.run(values.size() - 1, [&](std::size_t piece, std::size_t) {
      if (piece == 0) values[63] += values[62] & 1U;
    });
  }
  for (std::size_t piece = 0; piece < 63; ++piece) EXPECT_EQ(values[piece], (piece + 1) * 500 * 501 / 2);
}

TEST(ThreadPool, EveryThreadRoundsToNearestAndKeepsDenormals) {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // flush to zero, denormals are zero
  ThreadPool pool(3);
  std::vector<unsigned> modes(50);
  pool.run(modes.size(), [&](std::size_t piece, std::size_t) { modes[piece] = _mm_getcsr() & 0xffc0U; });
  _mm_setcsr(before);
  EXPECT_EQ(modes, std::vector<unsigned>(50, 0x1f80U));
}

TEST(ThreadPool, PoolsThatNeverRanShutDown) {
  for (int i = 0; i < 20; ++i) ThreadPool pool(5);
}

}  // namespace
}  // namespace planaria
