#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include <diffusers/pipelines/pipeline.h>

namespace diffusers {

/// One line on standard error that is redrawn a few times a second: bar, count, steps a second, time left.
/// Draws nothing where standard error is not a terminal.
class ProgressBar {
 public:
  ProgressBar(const ProgressBarConfig& config, int64_t total);
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar();

  void update(int64_t done);

 private:
  using Clock = std::chrono::steady_clock;

  bool is_drawn_;
  std::string desc_;
  int64_t total_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_drawn_ = {};
};

}  // namespace diffusers
