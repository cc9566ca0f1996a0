#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/training/progress.h>

#include <sys/resource.h>

#include "core/require.h"
#include "io/memory_line.h"
#include "io/terminal_line.h"

namespace diffusers {
namespace {

constexpr std::size_t kShortestBar = 8;
constexpr std::size_t kLongestBar = 40;

/// Returns the metrics as texts, the most important ones first.
std::vector<std::string> figures(const TrainingProgress& progress) {
  std::vector<std::string> parts{fmt::format("loss {:.4f}", progress.loss),
                                 fmt::format("lr {:.2e}", progress.lr),
                                 fmt::format("{:.1f} images/s", progress.images_per_second),
                                 "ETA " + format_duration(progress.eta_seconds)};
  if (progress.skipped_steps > 0) parts.push_back(fmt::format("{} steps skipped", progress.skipped_steps));
  parts.push_back(fmt::format("data {:.0f}%", 100 * progress.data_wait_share));
  if (progress.memory_bytes > 0) parts.push_back(format_memory(progress.memory_bytes));
  return parts;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  const auto whole = static_cast<int64_t>(std::lround(std::min(seconds, 1e12)));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

std::string format_memory(int64_t bytes) {
  const double mebibytes = static_cast<double>(bytes) / (1 << 20);
  if (mebibytes < 1023.5) return fmt::format("{:.0f} MiB", mebibytes);
  return fmt::format("{:.1f} GiB", mebibytes / 1024);
}

int64_t peak_memory_bytes() {
  // A process inherits the figure of getrusage() from its parent, so it is only the fallback.
  if (const auto peak = read_memory_line("/proc/self/status", "VmHWM")) return *peak;
  struct rusage usage {};
  return ::getrusage(RUSAGE_SELF, &usage) == 0 ? int64_t{usage.ru_maxrss} * 1024 : 0;
}

std::string progress_line(const TrainingProgress& progress) {
  return fmt::format("step {}/{}, epoch {}: {}", progress.step, progress.total_steps, progress.epoch,
                     fmt::join(figures(progress), ", "));
}

std::string progress_bar(const TrainingProgress& latest, int64_t step, int64_t total_steps,
                         std::size_t columns) {
  const double share = std::clamp(
      static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, total_steps)), 0.0, 1.0);
  const std::string head = fmt::format("{:3.0f}% ", 100 * share);
  std::string tail = fmt::format(" {}/{}", step, total_steps);
  if (latest.step > 0) {
    const char* separator = " | ";
    for (const std::string& part : figures(latest)) {
      if (head.size() + kShortestBar + 2 + tail.size() + 3 + part.size() > columns) break;
      tail += separator + part;
      separator = ", ";
    }
  }
  const std::size_t text = head.size() + tail.size() + 2;
  const std::size_t width =
      columns > text ? std::clamp(columns - text, kShortestBar, kLongestBar) : kShortestBar;
  std::string line = head + bar_text(share, width) + tail;
  if (line.size() > columns) line.resize(columns);
  return line;
}

ProgressDisplay::ProgressDisplay(bool enabled, int64_t total_steps)
    : enabled_(enabled),
      line_(std::make_unique<TerminalLine>(stdout)),
      total_steps_(std::max<int64_t>(1, total_steps)) {}

ProgressDisplay::~ProgressDisplay() = default;

void ProgressDisplay::draw_bar(int64_t step) {
  // The last column stays free, because some terminals break the line after it.
  line_->draw(progress_bar(latest_, step, total_steps_, line_->columns() - 1));
}

void ProgressDisplay::step_done(int64_t step) {
  if (enabled_ && line_->is_terminal() && (step >= total_steps_ || line_->is_due())) draw_bar(step);
}

void ProgressDisplay::show(const TrainingProgress& progress) {
  latest_ = progress;
  if (!enabled_) return;
  if (line_->is_terminal()) {
    draw_bar(progress.step);
  } else {
    message(progress_line(progress));
  }
}

void ProgressDisplay::message(const std::string& text) {
  if (!enabled_) return;
  line_->clear();
  std::fputs((text + "\n").c_str(), stdout);
  std::fflush(stdout);
}

}  // namespace diffusers
