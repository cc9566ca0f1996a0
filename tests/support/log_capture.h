#pragma once

// Captures the messages that the code of a test logs.

#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/logging.h>

namespace diffusers::test {

/// Collects the messages that are logged during its lifetime, instead of printing them. For code that logs
/// from one thread.
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
