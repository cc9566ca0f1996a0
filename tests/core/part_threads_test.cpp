#include "core/part_threads.h"

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <ctime>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "core/parallel.h"

namespace diffusers {
namespace {

/// LibTorch's number of threads, until the scope ends.
class ThreadNumber {
 public:
  explicit ThreadNumber(int threads) { at::set_num_threads(threads); }
  ThreadNumber(const ThreadNumber&) = delete;
  ThreadNumber& operator=(const ThreadNumber&) = delete;
  ~ThreadNumber() { at::set_num_threads(before_); }

 private:
  int before_ = at::get_num_threads();
};

/// Waits in each of several threads until all of them have come.
class Meeting {
 public:
  explicit Meeting(int count) : missing_(count) {}
  void come() {
    std::unique_lock<std::mutex> lock(mutex_);
    if (--missing_ == 0) all_came_.notify_all();
    all_came_.wait(lock, [this] { return missing_ <= 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable all_came_;
  int missing_;
};

double cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

TEST(ForEachPart, GivesEveryThreadAnItem) {
  const ThreadNumber threads(3);
  for (int round = 0; round < 100; ++round) {
    Meeting meeting(3);  // ends only if three threads run at once
    std::mutex mutex;
    std::set<std::thread::id> ids;
    for_each_part(3, [&](int64_t) {
      meeting.come();
      const std::lock_guard<std::mutex> lock(mutex);
      ids.insert(std::this_thread::get_id());
    });
    EXPECT_EQ(ids.size(), 3U);
    EXPECT_TRUE(ids.contains(std::this_thread::get_id()));
  }
}

TEST(ForEachPart, VisitsEveryItemOnce) {
  for (const int count : {1, 2, 7}) {
    const ThreadNumber threads(count);
    for (const int64_t items : {0, 1, 2, 50}) {
      std::array<std::atomic<int>, 50> visits{};
      for_each_part(items, [&](int64_t i) { ++visits[static_cast<std::size_t>(i)]; });
      for (std::size_t i = 0; i < visits.size(); ++i)
        EXPECT_EQ(visits[i], static_cast<int64_t>(i) < items ? 1 : 0);
    }
  }
}

TEST(ForEachPart, EachThreadRunsLibTorchAlone) {
  const ThreadNumber threads(3);
  Meeting meeting(3);
  for_each_part(3, [&](int64_t) {
    meeting.come();
    EXPECT_EQ(at::get_num_threads(), 1);
    const auto id = std::this_thread::get_id();
    at::parallel_for(0, 1000, 1, [&](int64_t begin, int64_t end) {
      EXPECT_EQ(std::this_thread::get_id(), id);
      EXPECT_EQ(end - begin, 1000);
    });
    for_each_part(5, [&](int64_t) { EXPECT_EQ(std::this_thread::get_id(), id); });
  });
  EXPECT_EQ(at::get_num_threads(), 3);
}

// The first use of LibTorch's templates in a thread sets its number of threads again.
TEST(ForEachPart, ALoopOfLibTorchChangesNoNumberOfThreads) {
  const ThreadNumber threads(3);
  for (int round = 0; round < 2; ++round) {
    Meeting meeting(3);
    for_each_part(3, [&](int64_t) {
      meeting.come();
      at::parallel_for(0, 10, 1, [](int64_t, int64_t) {});
      parallel_for(0, 10, 1, [](int64_t, int64_t) {});
      EXPECT_EQ(at::get_num_threads(), 1);
    });
  }
}

TEST(ForEachPart, EachThreadHasTheStateOfTheCaller) {
  const ThreadNumber threads(2);
  for (const bool has_grad : {true, false}) {
    const at::AutoGradMode mode(has_grad);
    Meeting meeting(2);
    for_each_part(2, [&](int64_t) {
      meeting.come();
      EXPECT_EQ(at::GradMode::is_enabled(), has_grad);
    });
  }
}

TEST(ForEachPart, AnExceptionReachesTheCaller) {
  const ThreadNumber threads(2);
  for (int64_t bad = 0; bad < 4; ++bad)
    EXPECT_THROW(for_each_part(4,
                               [&](int64_t i) {
                                 if (i == bad) throw std::runtime_error("inside");
                               }),
                 std::runtime_error);
  std::atomic<int> calls = 0;
  for_each_part(4, [&](int64_t) { ++calls; });
  EXPECT_EQ(calls, 4);
}

TEST(ForEachPart, ServesSeveralCallersAtOnce) {
  const ThreadNumber threads(2);
  std::atomic<int> calls = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&] {
      for (int round = 0; round < 50; ++round) for_each_part(3, [&](int64_t) { ++calls; });
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(calls, 4 * 50 * 3);
}

TEST(OneThreadBetweenParts, LimitsOperationsAndNotParts) {
  const ThreadNumber threads(3);
  {
    const OneThreadBetweenParts one_thread(true);
    EXPECT_EQ(at::get_num_threads(), 1);
    EXPECT_EQ(threads_of_parts(), 3);
    const OneThreadBetweenParts inner(true);
    Meeting meeting(3);
    for_each_part(3, [&](int64_t) {
      meeting.come();
      EXPECT_EQ(at::get_num_threads(), 1);
    });
  }
  EXPECT_EQ(at::get_num_threads(), 3);
  const OneThreadBetweenParts unlimited(false);
  EXPECT_EQ(at::get_num_threads(), 3);
}

// After an operation on several threads, OpenMP's threads would take the cores of the parts.
TEST(OneThreadBetweenParts, KeepsTheThreadsOfOpenMpAsleep) {
  const ThreadNumber threads(4);
  const OneThreadBetweenParts one_thread(true);
  for_each_part(4, [](int64_t) {});
  const double start = cpu_seconds();
  for (int round = 0; round < 10; ++round) {
    at::zeros({1 << 16}).add_(1);
    for_each_part(4, [](int64_t i) {
      if (i == 0) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    });
  }
  EXPECT_LT(cpu_seconds() - start, 0.1);
}

// A thread that waits actively would use the core for as long as it waits.
TEST(ForEachPart, WaitingThreadsTakeNoCore) {
  const ThreadNumber threads(4);
  for_each_part(4, [](int64_t) {});
  const double start = cpu_seconds();
  for_each_part(4, [](int64_t i) {
    if (i == 0) std::this_thread::sleep_for(std::chrono::milliseconds(300));
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_LT(cpu_seconds() - start, 0.1);
}

}  // namespace
}  // namespace diffusers
