#pragma once

// Captures the messages that the code of a test logs.

#include <algorithm>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include <diffusers/core/logging.h>

namespace diffusers::test {

/// Collects the messages that are logged during its lifetime, instead of printing them. The code may log from
/// several threads.
class LogCapture {
 public:
  LogCapture()
      : previous_(set_log_sink([this](LogLevel, std::string_view message) {
          const std::lock_guard lock(mutex_);
          messages_.emplace_back(message);
        })) {}
  LogCapture(const LogCapture&) = delete;
  LogCapture& operator=(const LogCapture&) = delete;
  ~LogCapture() { set_log_sink(previous_); }

  /// Returns the messages. Not while another thread logs.
  const std::vector<std::string>& messages() const { return messages_; }
  /// Returns whether a message has a part.
  bool contains(std::string_view part) const {
    const std::lock_guard lock(mutex_);
    return std::any_of(messages_.begin(), messages_.end(),
                       [&](const std::string& message) { return message.find(part) != std::string::npos; });
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> messages_;
  LogSink previous_;
};

}  // namespace diffusers::test
