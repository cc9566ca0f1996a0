#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include <diffusers/pipelines/pipeline.h>

#include "io/terminal_line.h"

namespace diffusers {
inline namespace internal {

/// Shows the progress of a pipeline call on standard error: bar, count, steps per second, seconds left. It
/// draws nothing if standard error is not a terminal.
class ProgressBar {
 public:
  /// @param total number of steps; 0 or less draws nothing
  ProgressBar(const ProgressBarConfig& config, int64_t total);
  /// @param done number of completed steps
  void update(int64_t done);

 private:
  using Clock = std::chrono::steady_clock;

  TerminalLine line_;
  bool is_drawn_;
  std::string desc_;
  int64_t total_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace internal
}  // namespace diffusers
