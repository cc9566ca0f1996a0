#include "pipelines/progress_bar.h"

#include <cstdio>

#include <fmt/format.h>

namespace diffusers {
inline namespace internal {

ProgressBar::ProgressBar(const ProgressBarConfig& config, int64_t total)
    : line_(stderr),
      is_drawn_(!config.disable && total > 0 && line_.is_terminal()),
      desc_(config.desc.empty() ? "Sampling" : config.desc),
      total_(total) {}

void ProgressBar::update(int64_t done) {
  if (!is_drawn_ || (done < total_ && !line_.is_due())) return;
  constexpr std::size_t kWidth = 30;
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  const double left = rate > 0 ? static_cast<double>(total_ - done) / rate : 0;
  line_.draw(fmt::format("{} {} {}/{}, {:.1f} steps/s, {:.0f} s left", desc_,
                         bar_text(static_cast<double>(done) / static_cast<double>(total_), kWidth), done,
                         total_, rate, left));
}

}  // namespace internal
}  // namespace diffusers
