#include "io/terminal_line.h"

#include <algorithm>
#include <chrono>

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace diffusers {
inline namespace internal {
namespace {

constexpr double kRedrawSeconds = 0.1;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

std::string bar_text(double share, std::size_t width) {
  const auto filled = static_cast<std::size_t>(std::clamp(share, 0.0, 1.0) * static_cast<double>(width));
  return "[" + std::string(filled, '#') + std::string(width - filled, '.') + "]";
}

TerminalLine::TerminalLine(std::FILE* stream)
    : stream_(stream), is_terminal_(::isatty(fileno(stream)) == 1) {}

std::size_t TerminalLine::columns() const {
  struct winsize size {};
  return ::ioctl(fileno(stream_), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

bool TerminalLine::is_due() const { return seconds_now() - last_drawn_ > kRedrawSeconds; }

void TerminalLine::draw(std::string_view text) {
  fmt::print(stream_, "\r{}\x1b[K", text);
  std::fflush(stream_);
  is_drawn_ = true;
  last_drawn_ = seconds_now();
}

void TerminalLine::clear() {
  if (is_drawn_) std::fputs("\r\x1b[K", stream_);
  is_drawn_ = false;
}

void TerminalLine::end() {
  if (!is_drawn_) return;
  std::fputs("\n", stream_);
  std::fflush(stream_);
  is_drawn_ = false;
}

}  // namespace internal
}  // namespace diffusers
