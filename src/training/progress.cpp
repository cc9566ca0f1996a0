#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <sstream>
#include <string>
#include <utility>

#include <diffusers/io/chart.h>
#include <diffusers/io/files.h>
#include <diffusers/training/progress.h>

#include <sys/ioctl.h>
#include <unistd.h>

#include "core/format.h"
#include "io/system_calls.h"

namespace diffusers {
namespace {

constexpr const char* kMetricsHeader =
    "step,epoch,loss,lr,grad_norm,images_per_second,elapsed_seconds,skipped_steps\n";
constexpr double kRedrawSeconds = 0.1;
constexpr std::size_t kMaxMetricsBytes = std::size_t{1} << 30;

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::size_t terminal_columns() {
  struct winsize size {};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string figures(const TrainingProgress& progress) {
  std::string text =
      fmt::format("loss {:.4f}, lr {:.2e}, {:.1f} images/s, ETA {}", progress.loss, progress.lr,
                  progress.images_per_second, format_duration(progress.eta_seconds));
  if (progress.skipped_steps > 0) text += fmt::format(", {} steps skipped", progress.skipped_steps);
  return text;
}

/// The number in front of the first comma of `line` and after its second, or NaN.
bool parse_row(std::string_view line, double& step, double& loss) {
  const std::size_t first = line.find(',');
  const std::size_t second = first == std::string_view::npos ? first : line.find(',', first + 1);
  const std::size_t third = second == std::string_view::npos ? second : line.find(',', second + 1);
  if (third == std::string_view::npos) return false;
  const auto parse = [](std::string_view text, double& value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc() && end == text.data() + text.size();
  };
  return parse(line.substr(0, first), step) && parse(line.substr(second + 1, third - second - 1), loss);
}

}  // namespace

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  const auto whole = static_cast<int64_t>(std::lround(std::min(seconds, 1e12)));
  if (whole < 3600) return fmt::format("{}:{:02}", whole / 60, whole % 60);
  return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
}

ProgressDisplay::ProgressDisplay(bool enabled, int64_t total_steps)
    : enabled_(enabled),
      is_terminal_(::isatty(STDOUT_FILENO) == 1),
      total_steps_(std::max<int64_t>(1, total_steps)) {}

ProgressDisplay::~ProgressDisplay() { end_bar(); }

void ProgressDisplay::end_bar() {
  if (!bar_is_drawn_) return;
  std::fputs("\n", stdout);
  std::fflush(stdout);
  bar_is_drawn_ = false;
}

void ProgressDisplay::draw_bar(int64_t step) {
  const auto share = static_cast<double>(step) / static_cast<double>(total_steps_);
  const std::string head = fmt::format("{:3.0f}% ", 100 * share);
  std::string tail = fmt::format(" {}/{}", step, total_steps_);
  if (latest_.step > 0) tail += " | " + figures(latest_);
  const std::size_t columns = terminal_columns();
  const std::size_t text = head.size() + tail.size() + 3;
  const std::size_t width = columns > text + 8 ? std::min<std::size_t>(40, columns - text) : 8;
  const auto filled = std::min(width, static_cast<std::size_t>(share * static_cast<double>(width)));
  std::string line = head + "[" + std::string(filled, '#') + std::string(width - filled, '.') + "]" + tail;
  if (line.size() >= columns) line.resize(columns - 1);
  std::fputs(("\r" + line + "\x1b[K").c_str(), stdout);
  std::fflush(stdout);
  bar_is_drawn_ = true;
  last_drawn_ = steady_seconds();
}

void ProgressDisplay::step_done(int64_t step) {
  if (enabled_ && is_terminal_ && (step >= total_steps_ || steady_seconds() - last_drawn_ > kRedrawSeconds))
    draw_bar(step);
}

void ProgressDisplay::show(const TrainingProgress& progress) {
  latest_ = progress;
  if (!enabled_) return;
  if (is_terminal_) {
    draw_bar(progress.step);
  } else {
    message(fmt::format("step {}/{}, epoch {}: {}", progress.step, total_steps_, progress.epoch,
                        figures(progress)));
  }
}

void ProgressDisplay::message(const std::string& text) {
  if (!enabled_) return;
  if (bar_is_drawn_) std::fputs("\r\x1b[K", stdout);
  bar_is_drawn_ = false;
  std::fputs((text + "\n").c_str(), stdout);
  std::fflush(stdout);
}

MetricsLog::MetricsLog(std::string path, int64_t resumed_step) : path_(std::move(path)) {
  std::string kept = kMetricsHeader;
  if (resumed_step > 0 && file_exists(path_)) {
    std::istringstream lines(read_text_file(path_, kMaxMetricsBytes));
    for (std::string line; std::getline(lines, line);) {
      double step = 0;
      double loss = 0;
      // The header, and a row that a crash cut short, parse to nothing.
      if (!parse_row(line, step, loss) || step > static_cast<double>(resumed_step)) continue;
      kept += line + "\n";
      steps_.push_back(step);
      losses_.push_back(loss);
    }
  }
  write_file_atomically(path_, kept);
}

void MetricsLog::append(const TrainingProgress& progress) {
  const std::string row =
      fmt::format("{},{},{:.9g},{:.9g},{:.9g},{:.2f},{:.2f},{}\n", progress.step, progress.epoch,
                  progress.loss, progress.lr, progress.grad_norm, progress.images_per_second,
                  progress.elapsed_seconds, progress.skipped_steps);
  append_to_file(path_, row);
  steps_.push_back(static_cast<double>(progress.step));
  losses_.push_back(progress.loss);
}

void MetricsLog::save_loss_chart(const std::string& path) const {
  if (steps_.size() < 2) return;
  ChartSeries loss;
  loss.name = "loss";
  loss.x = steps_;
  loss.y = losses_;
  ChartOptions options;
  options.title = "Training loss";
  options.x_label = "step";
  options.y_label = "loss";
  options.log_y = std::all_of(losses_.begin(), losses_.end(), [](double value) { return value > 0; });
  save_line_chart(path, {loss}, options);
}

}  // namespace diffusers
