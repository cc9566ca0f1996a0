#include "core/exact_allocator.h"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

#include <ATen/ATen.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include "core/freed_memory.h"

namespace diffusers {
namespace {

TEST(ExactAllocator, AlignsEveryBlock) {
  ExactAllocator& allocator = ExactAllocator::instance();
  for (size_t bytes = 1; bytes < (1U << 20); bytes = bytes * 3 + 1) {
    const c10::DataPtr data = allocator.allocate(bytes);
    ASSERT_NE(data.get(), nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data.get()) % 64, 0U);
    EXPECT_TRUE(allocator.is_simple_data_ptr(data));
    std::memset(data.get(), 1, bytes);
  }
  EXPECT_EQ(allocator.allocate(0).get(), nullptr);
}

TEST(ExactAllocator, RawBlocksAreFreed) {
  ExactAllocator& allocator = ExactAllocator::instance();
  void* const data = allocator.raw_allocate(100);
  std::memset(data, 1, 100);
  allocator.raw_deallocate(data);
}

// The sanitizers end a program that asks for too much memory.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(ExactAllocator, WithoutMemoryTheErrorNamesTheSize) {
  const size_t most = std::numeric_limits<size_t>::max();
  for (const size_t bytes : {most, most / 4}) {
    try {
      ExactAllocator::instance().allocate(bytes);
      FAIL() << bytes;
    } catch (const c10::Error& error) {
      EXPECT_NE(std::strstr(error.what(), std::to_string(bytes).c_str()), nullptr) << error.what();
    }
  }
}
#endif

#if defined(__linux__)
/// Returns the flags of the mapping of an address in /proc/self/smaps; empty if they are not known.
std::string mapping_flags(const void* data) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  std::ifstream file("/proc/self/smaps");
  bool is_inside = false;
  for (std::string line; std::getline(file, line);) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    char dash = 0;
    std::istringstream range(line);
    if (range >> std::hex >> begin >> dash >> end && dash == '-')
      is_inside = begin <= address && address < end;
    if (is_inside && line.starts_with("VmFlags:")) return line;
  }
  return {};
}

TEST(ExactAllocator, LargeBlocksAskForHugePages) {
  if (!std::ifstream("/sys/kernel/mm/transparent_hugepage/enabled"))
    GTEST_SKIP() << "the system has no huge pages";
  const size_t bytes = size_t{64} << 20;
  const c10::DataPtr data = ExactAllocator::instance().allocate(bytes);
  const std::string flags = mapping_flags(static_cast<char*>(data.get()) + bytes / 2);
  if (flags.empty()) GTEST_SKIP() << "the system does not tell the flags of a mapping";
  EXPECT_NE(flags.find(" hg"), std::string::npos) << flags;
}
#endif

#if defined(__GLIBC__)
TEST(ExactAllocator, ServesTensorsFromTheFirstScopeOn) {
  if (!keeps_freed_memory()) GTEST_SKIP() << "a variable sets the memory of the C library";
  at::Tensor kept;
  {
    const FreedMemoryScope outer;
    EXPECT_EQ(c10::GetCPUAllocator(), &ExactAllocator::instance());
    { const FreedMemoryScope inner; }
    EXPECT_EQ(c10::GetCPUAllocator(), &ExactAllocator::instance());
    kept = at::ones({1000});
    kept.resize_({2000}).fill_(2);
  }
  EXPECT_EQ(c10::GetCPUAllocator(), &ExactAllocator::instance());
  kept.resize_({3000}).fill_(3);  // tensors outlive the scope
  EXPECT_EQ(kept.sum().item<float>(), 9000.0F);
}

/// An allocator of the program.
class OwnAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override { return c10::GetDefaultCPUAllocator()->allocate(bytes); }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

TEST(ExactAllocator, LeavesAnAllocatorOfTheProgram) {
  static OwnAllocator own;
  c10::Allocator* const before = c10::GetCPUAllocator();
  c10::SetCPUAllocator(&own);
  {
    const FreedMemoryScope scope;
    EXPECT_EQ(c10::GetCPUAllocator(), &own);
  }
  EXPECT_EQ(c10::GetCPUAllocator(), &own);
  c10::SetCPUAllocator(before);
}
#endif

}  // namespace
}  // namespace diffusers
