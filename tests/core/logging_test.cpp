#include <string>
#include <thread>
#include <vector>

#include <diffusers/core/logging.h>

#include <gtest/gtest.h>

namespace diffusers {
namespace {

/// Collects messages while it lives.
class CollectingSink {
 public:
  CollectingSink()
      : before_(set_log_sink(
            [this](LogLevel level, std::string_view text) { messages.emplace_back(level, text); })),
        level_(get_verbosity()) {}
  ~CollectingSink() {
    set_log_sink(before_);
    set_verbosity(level_);
  }
  std::vector<std::pair<LogLevel, std::string>> messages;

 private:
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

}  // namespace
}  // namespace diffusers
