#include "io/memory_line.h"

#include <string>

#include <diffusers/io/files.h>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

TEST(MemoryLine, IsReadInBytes) {
  const test::TemporaryFolder folder;
  write_file("Name:\ttrain\nVmHWM:\t  500 kB\nVmHWMark:\t 7 kB\nVmRSS:\t  300 kB\n", folder / "status");
  EXPECT_EQ(read_memory_line(folder / "status", "VmHWM"), 512'000);
  EXPECT_EQ(read_memory_line(folder / "status", "VmRSS"), 307'200);
}

TEST(MemoryLine, NeedsTheFileTheLineAndANumber) {
  const test::TemporaryFolder folder;
  write_file("VmHWM:\tmuch\nVmHWM:\t 5 kB\n", folder / "status");
  EXPECT_FALSE(read_memory_line(folder / "nowhere", "VmHWM"));
  EXPECT_FALSE(read_memory_line(folder / "status", "VmRSS"));
  EXPECT_FALSE(read_memory_line(folder / "status", "VmHWM"));
}

}  // namespace
}  // namespace diffusers
