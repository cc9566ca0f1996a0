#include "core/freed_memory.h"

#include <cstdlib>
#include <string>
#include <vector>

#include <diffusers/core/error.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/resource.h>

namespace diffusers {
namespace {

/// Sets an environment variable for a scope; an absent value removes it.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) {
    if (const char* const before = std::getenv(name)) {
      had_value_ = true;
      before_ = before;
    }
    set(value);
  }
  ~Variable() { set(had_value_ ? before_.c_str() : nullptr); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  void set(const char* value) {
    if (value == nullptr) {
      unsetenv(name_);
    } else {
      setenv(name_, value, 1);
    }
  }

  const char* name_;
  bool had_value_ = false;
  std::string before_;
};

/// The variables of the C library do not disturb the tests.
class FreedMemory : public ::testing::Test {
  Variable keep_{"DIFFUSERS_KEEP_MEMORY", nullptr};
  Variable trim_{"MALLOC_TRIM_THRESHOLD_", nullptr};
  Variable map_{"MALLOC_MMAP_THRESHOLD_", nullptr};
  Variable tunables_{"GLIBC_TUNABLES", nullptr};
};

/// Disables huge pages in this process, so that the number of new pages tells the memory that is cleared.
struct SmallPages {
  SmallPages() { prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0); }
  SmallPages(const SmallPages&) = delete;
  SmallPages& operator=(const SmallPages&) = delete;
  ~SmallPages() { prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0); }
};

/// Allocates, fills and frees 80 MB, as a training step does.
void run_step() {
  std::vector<std::vector<char>> blocks;
  blocks.reserve(4);  // the blocks are neighbours
  for (int i = 0; i < 4; ++i) blocks.emplace_back(20 << 20, 'a');
}

long new_pages() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

TEST_F(FreedMemory, VariablesDecide) {
  EXPECT_TRUE(keeps_freed_memory());
  {
    const Variable off("DIFFUSERS_KEEP_MEMORY", "0");
    EXPECT_FALSE(keeps_freed_memory());
  }
  {
    const Variable on("DIFFUSERS_KEEP_MEMORY", "1");
    EXPECT_TRUE(keeps_freed_memory());
  }
  {
    const Variable other("DIFFUSERS_KEEP_MEMORY", "yes");
    EXPECT_THROW(keeps_freed_memory(), ConfigError);
    EXPECT_THROW(FreedMemoryScope(), ConfigError);
  }
  const Variable trim("MALLOC_TRIM_THRESHOLD_", "131072");
  EXPECT_FALSE(keeps_freed_memory());
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST_F(FreedMemory, MakesRoomForLargeBlocks) {
  const FreedMemoryScope scope;
  for (int i = 0; i < 4; ++i) run_step();
  const long before = new_pages();
  make_room_for_blocks(32 << 20);  // does nothing
  run_step();
  EXPECT_LT(new_pages() - before, 1000);
  make_room_for_blocks((32 << 20) + 1);
  run_step();
  EXPECT_GT(new_pages() - before, 10000) << "the memory was kept";
}

TEST_F(FreedMemory, RepeatedStepsClearNoNewPages) {
  const FreedMemoryScope outer;
  const auto pages_of_step = [] {
    const long before = new_pages();
    run_step();
    return new_pages() - before;
  };
  for (int i = 0; i < 4; ++i) run_step();  // the heap takes its final size
  {
    const FreedMemoryScope inner;
    EXPECT_LT(pages_of_step(), 1000);
  }
  EXPECT_LT(pages_of_step(), 1000) << "the outer scope still exists";
}

/// Returns the pages that are cleared in a forward pass.
long pages_of_forward(const at::Tensor& input) {
  const long before = new_pages();
  const ForwardMemoryScope memory(input);
  run_step();
  return new_pages() - before;
}

TEST_F(FreedMemory, AForwardPassWithoutGradientsUsesItsMemoryAgain) {
  const SmallPages small_pages;
  const at::NoGradGuard no_grad;
  const at::Tensor elsewhere = at::empty({1}, at::kMeta);
  for (int i = 0; i < 3; ++i) pages_of_forward(elsewhere);
  EXPECT_GT(pages_of_forward(elsewhere), 10000) << "glibc returns the memory without the scope";
  const at::Tensor input = at::ones({1});
  for (int i = 0; i < 3; ++i) pages_of_forward(input);
  EXPECT_LT(pages_of_forward(input), 1000);
}

TEST_F(FreedMemory, AForwardPassWithGradientsLeavesTheMemoryAlone) {
  const SmallPages small_pages;
  const at::Tensor input = at::ones({1});
  for (int i = 0; i < 3; ++i) pages_of_forward(input);
  EXPECT_GT(pages_of_forward(input), 10000);
}
#endif

}  // namespace
}  // namespace diffusers
