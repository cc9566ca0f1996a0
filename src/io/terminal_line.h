#pragma once

#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>

namespace diffusers {
inline namespace internal {

/// Draws a bar such as "[####......]".
/// @param share filled fraction, 0 to 1
/// @param width number of characters between the brackets
std::string bar_text(double share, std::size_t width);

/// One line of a terminal that is redrawn in place, such as a progress bar.
class TerminalLine {
 public:
  /// @param stream stdout or stderr; not owned
  explicit TerminalLine(std::FILE* stream);
  TerminalLine(const TerminalLine&) = delete;
  TerminalLine& operator=(const TerminalLine&) = delete;
  /// Calls `end`.
  ~TerminalLine() { end(); }

  /// True if the stream is a terminal. The caller draws nothing otherwise.
  bool is_terminal() const { return is_terminal_; }
  /// Width of the terminal in characters; 80 if it is not known.
  std::size_t columns() const;
  /// True if a tenth of a second has passed since the line was drawn.
  bool is_due() const;
  /// Replaces the line's text.
  void draw(std::string_view text);
  /// Removes the line's text, so that something else can be written in its place.
  void clear();
  /// Moves the cursor to a new line if the line has text.
  void end();

 private:
  std::FILE* stream_;
  bool is_terminal_;
  bool is_drawn_ = false;
  double last_drawn_ = 0.0;  // seconds of the steady clock
};

}  // namespace internal
}  // namespace diffusers
