#include "pipelines/progress_bar.h"

#include <cstdio>

#include <fmt/format.h>
#include <unistd.h>

namespace diffusers {

ProgressBar::ProgressBar(const ProgressBarConfig& config, int64_t total)
    : is_drawn_(!config.disable && total > 0 && isatty(STDERR_FILENO) == 1),
      desc_(config.desc.empty() ? "Sampling" : config.desc),
      total_(total) {}

ProgressBar::~ProgressBar() {
  if (is_drawn_) std::fputc('\n', stderr);
}

void ProgressBar::update(int64_t done) {
  if (!is_drawn_) return;
  const auto now = Clock::now();
  if (done < total_ && now - last_drawn_ < std::chrono::milliseconds(100)) return;
  last_drawn_ = now;

  constexpr int64_t kWidth = 30;
  const auto filled = static_cast<std::size_t>(kWidth * done / total_);
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const double left = rate > 0 ? static_cast<double>(total_ - done) / rate : 0;
  const std::string bar = std::string(filled, '#') + std::string(kWidth - filled, '.');
  fmt::print(stderr, "\r{} [{}] {}/{}, {:.1f} steps/s, {:.0f} s left  ", desc_, bar, done, total_, rate,
             left);
  std::fflush(stderr);
}

}  // namespace diffusers
