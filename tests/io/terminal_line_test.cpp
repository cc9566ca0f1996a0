#include "io/terminal_line.h"

#include <cstdio>
#include <cstdlib>
#include <string>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "support/golden.h"

namespace diffusers {
namespace {

/// A terminal whose output the test reads.
class PseudoTerminal {
 public:
  PseudoTerminal() : controller_(::posix_openpt(O_RDWR | O_NOCTTY)) {
    EXPECT_GE(controller_, 0);
    EXPECT_EQ(::grantpt(controller_), 0);
    EXPECT_EQ(::unlockpt(controller_), 0);
    stream_ = std::fopen(::ptsname(controller_), "w");
    EXPECT_NE(stream_, nullptr);
  }
  PseudoTerminal(const PseudoTerminal&) = delete;
  PseudoTerminal& operator=(const PseudoTerminal&) = delete;
  ~PseudoTerminal() {
    std::fclose(stream_);
    ::close(controller_);
  }
  std::FILE* stream() const { return stream_; }
  void set_columns(unsigned short columns) const {
    struct winsize size {};
    size.ws_col = columns;
    EXPECT_EQ(::ioctl(controller_, TIOCSWINSZ, &size), 0);
  }
  /// Returns the output since the last call, in which the terminal writes "\r\n" for "\n". The output arrives
  /// in pieces, so the test writes a last character that marks its end.
  std::string output() const {
    constexpr char kEnd = '\x1d';
    std::fputc(kEnd, stream_);
    std::fflush(stream_);
    std::string text;
    while (text.find(kEnd) == std::string::npos) {
      char bytes[4096];
      const ssize_t count = ::read(controller_, bytes, sizeof(bytes));
      if (count <= 0) break;
      text.append(bytes, static_cast<std::size_t>(count));
    }
    return text.substr(0, text.find(kEnd));
  }

 private:
  int controller_;
  std::FILE* stream_ = nullptr;
};

TEST(TerminalLine, DrawsABar) {
  EXPECT_EQ(bar_text(0, 4), "[....]");
  EXPECT_EQ(bar_text(0.5, 4), "[##..]");
  EXPECT_EQ(bar_text(0.99, 4), "[###.]");
  EXPECT_EQ(bar_text(1, 4), "[####]");
  EXPECT_EQ(bar_text(7, 4), "[####]");
  EXPECT_EQ(bar_text(-1, 4), "[....]");
}

TEST(TerminalLine, IsRedrawnInPlace) {
  const PseudoTerminal terminal;
  terminal.set_columns(57);
  {
    TerminalLine line(terminal.stream());
    EXPECT_TRUE(line.is_terminal());
    EXPECT_EQ(line.columns(), 57U);
    EXPECT_TRUE(line.is_due());
    line.draw("1 of 3");
    EXPECT_FALSE(line.is_due());
    EXPECT_EQ(terminal.output(), "\r1 of 3\x1b[K");
    line.draw("2 of 3");
    line.clear();
    std::fputs("a message\n", terminal.stream());
    EXPECT_EQ(terminal.output(), "\r2 of 3\x1b[K\r\x1b[Ka message\r\n");
    line.draw("3 of 3");
    terminal.output();
  }
  // The next text of the program begins on a new line.
  EXPECT_EQ(terminal.output(), "\r\n");
}

TEST(TerminalLine, EndsOnlyALineThatHasText) {
  const PseudoTerminal terminal;
  TerminalLine line(terminal.stream());
  line.end();
  line.clear();
  line.draw("done");
  line.end();
  line.end();
  EXPECT_EQ(terminal.output(), "\rdone\x1b[K\r\n");
}

TEST(TerminalLine, KnowsAFile) {
  const test::TemporaryFolder folder;
  std::FILE* file = std::fopen((folder / "log").c_str(), "w");
  ASSERT_NE(file, nullptr);
  {
    const TerminalLine line(file);
    EXPECT_FALSE(line.is_terminal());
    EXPECT_EQ(line.columns(), 80U);
  }
  std::fclose(file);
}

}  // namespace
}  // namespace diffusers
