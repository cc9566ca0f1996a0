#pragma once

// The messages that a test's code logs.

#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/logging.h>

namespace diffusers::test {

/// Collects the messages of its lifetime instead of letting them through. For code that logs from one thread.
class LogCapture {
 public:
  LogCapture()
      : previous_(
            set_log_sink([this](LogLevel, std::string_view message) { messages_.emplace_back(message); })) {}
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;
  ~LogCapture() { set_log_sink(previous_); }

  const std::vector<std::string>& messages() const { return messages_; }

 private:
  std::vector<std::string> messages_;
  LogSink previous_;
};

}  // namespace diffusers::test
