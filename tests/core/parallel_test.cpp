#include "core/parallel.h"

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

namespace diffusers {
namespace {

TEST(ParallelFor, UsesSeveralThreadsAndVisitsEveryItemOnce) {
  const int threads = at::get_num_threads();
  at::set_num_threads(3);
  std::mutex mutex;
  std::set<std::thread::id> ids;
  std::vector<int> visits(300, 0);
  parallel_for(0, 300, 1, [&](int64_t begin, int64_t end) {
    const std::lock_guard<std::mutex> lock(mutex);
    ids.insert(std::this_thread::get_id());
    for (int64_t i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
  });
  at::set_num_threads(threads);
  EXPECT_EQ(ids.size(), 3U);
  for (const int count : visits) EXPECT_EQ(count, 1);
}

TEST(ParallelFor, StaysOnOneThreadInsideAnother) {
  const int threads = at::get_num_threads();
  at::set_num_threads(2);
  std::atomic<int> inner_calls = 0;
  parallel_for(0, 2, 1, [&](int64_t, int64_t) {
    const auto id = std::this_thread::get_id();
    EXPECT_TRUE(at::in_parallel_region());
    EXPECT_EQ(at::get_num_threads(), 1);
    parallel_for(0, 100, 1, [&](int64_t begin, int64_t end) {
      EXPECT_EQ(std::this_thread::get_id(), id);
      EXPECT_EQ(end - begin, 100);
      ++inner_calls;
    });
  });
  EXPECT_EQ(at::get_num_threads(), 2);
  at::set_num_threads(threads);
  EXPECT_EQ(inner_calls, 2);
}

TEST(ParallelFor, AnExceptionReachesTheCaller) {
  EXPECT_THROW(parallel_for(0, 8, 1, [](int64_t, int64_t) { throw std::runtime_error("inside"); }),
               std::runtime_error);
}

}  // namespace
}  // namespace diffusers
