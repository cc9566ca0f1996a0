#include <atomic>
#include <cstddef>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <diffusers/core/logging.h>

#include <gtest/gtest.h>

namespace diffusers {
namespace {

/// Collects the messages that are logged during its lifetime.
class CollectingSink {
 public:
  CollectingSink()
      : before_(set_log_sink([this](LogLevel level, std::string_view text) {
          messages.emplace_back(level, text);
          ++count_;
        })),
        level_(get_verbosity()) {}
  ~CollectingSink() {
    set_log_sink(before_);
    set_verbosity(level_);
  }
  /// Thread-safe.
  std::size_t count() const { return count_; }
  std::vector<std::pair<LogLevel, std::string>> messages;

 private:
  std::atomic<std::size_t> count_{0};
  LogSink before_;
  LogLevel level_;
};

TEST(Logging, VerbosityFilters) {
  CollectingSink sink;
  set_verbosity(LogLevel::kWarning);
  log_message(LogLevel::kInfo, "info");
  log_message(LogLevel::kWarning, "warning");
  set_verbosity(LogLevel::kDebug);
  log_message(LogLevel::kDebug, "debug");
  set_verbosity(LogLevel::kOff);
  log_message(LogLevel::kError, "error");
  log_message(LogLevel::kOff, "off");
  ASSERT_EQ(sink.messages.size(), 2U);
  EXPECT_EQ(sink.messages[0].second, "warning");
  EXPECT_EQ(sink.messages[1].second, "debug");
}

TEST(Logging, AWarningIsGivenOnceEvenByManyThreads) {
  CollectingSink sink;
  set_verbosity(LogLevel::kWarning);
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([] { warn_once("only once, please"); });
  for (auto& thread : threads) thread.join();
  warn_once("another");
  ASSERT_EQ(sink.messages.size(), 2U);
  EXPECT_EQ(sink.messages[0], (std::pair<LogLevel, std::string>(LogLevel::kWarning, "only once, please")));
}

TEST(Logging, SinksCanBeStacked) {
  CollectingSink outer;
  {
    CollectingSink inner;
    log_message(LogLevel::kError, "inner");
    EXPECT_EQ(inner.messages.size(), 1U);
  }
  log_message(LogLevel::kError, "outer");
  ASSERT_EQ(outer.messages.size(), 1U);
  EXPECT_EQ(outer.messages[0].second, "outer");
}

// A sink may be destroyed before the logging threads end, and need not be thread-safe.
TEST(Logging, ASinkIsCalledByOneThreadAtATimeAndNotAfterItWasReplaced) {
  CollectingSink outer;
  std::atomic<bool> is_ending{false};
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      while (!is_ending) log_message(LogLevel::kError, "from a thread");
    });
  std::size_t seen = 0;
  for (int i = 0; i < 200; ++i) {
    CollectingSink sink;
    while (sink.count() == 0) std::this_thread::yield();
    seen += sink.count();
  }
  is_ending = true;
  for (auto& thread : threads) thread.join();
  EXPECT_GE(seen, 200U);
}

TEST(Logging, ASinkMayLogAndReplaceItself) {
  CollectingSink outer;
  set_log_sink([&](LogLevel level, std::string_view text) {
    set_log_sink(
        [&](LogLevel, std::string_view again) { outer.messages.emplace_back(LogLevel::kDebug, again); });
    log_message(level, std::string(text) + " again");
  });
  log_message(LogLevel::kError, "once");
  ASSERT_EQ(outer.messages.size(), 1U);
  EXPECT_EQ(outer.messages[0].second, "once again");
}

}  // namespace
}  // namespace diffusers
