#include <cstdio>
#include <cstdlib>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/ops/attention.h>
#include <diffusers/ops/fused.h>
#include <diffusers/ops/group_norm.h>

#include "ops/cpu/kernels.h"
#include "ops/support.h"
#include "ops/tokens.h"

namespace diffusers {
namespace {

using testing::leaf;
using testing::normal;

/// Sets the switch for a scope.
class FusedScope {
 public:
  explicit FusedScope(bool enabled) : before_(ops::fused()) { ops::set_fused(enabled); }
  ~FusedScope() { ops::set_fused(before_); }
  FusedScope(const FusedScope&) = delete;
  FusedScope& operator=(const FusedScope&) = delete;

 private:
  bool before_;
};

TEST(Fused, SwitchesAllKernels) {
  if (!cpu::kernels_available()) GTEST_SKIP() << "this machine has no AVX2";
  const at::Tensor image = leaf(normal({2, 4, 5, 5}), at::kFloat);
  const at::Tensor heads = leaf(normal({2, 2, 9, 8}), at::kFloat);
  const auto kernels = [&] {
    int count = 0;
    for (const auto& result :
         {group_norm(image, 2, at::Tensor(), at::Tensor()), group_norm(image, 2, {}, {}, {.silu = true}),
          attention(heads, heads, heads), image_to_tokens(image), group_norm_tokens(image, 2, {}, {}, 1e-5)})
      count += static_cast<int>(result.grad_fn()->name().find("Function") != std::string::npos);
    return count;
  };
  const FusedScope on(true);
  EXPECT_TRUE(fused_cpu());
  EXPECT_EQ(kernels(), 5);
  {
    const FusedScope off(false);
    EXPECT_FALSE(ops::fused());
    EXPECT_FALSE(fused_cpu());
    EXPECT_FALSE(fused_cuda());
    set_fused_cpu(true);
    EXPECT_FALSE(fused_cpu());
    EXPECT_EQ(kernels(), 0);
  }
  const testing::FusedCpu off(false);
  EXPECT_TRUE(ops::fused());
  EXPECT_EQ(kernels(), 0);
}

/// Exits with 0 or 1 as the switch is off or on, and with 2 for an exception.
[[noreturn]] void exit_with_switch() {
  try {
    std::_Exit(ops::fused() ? 1 : 0);
  } catch (const ConfigError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::_Exit(2);
  }
}

TEST(FusedDeathTest, EnvironmentVariableSetsTheInitialValue) {
  // The child process starts anew and reads the variable.
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  ::setenv("DIFFUSERS_FUSED", "0", 1);
  EXPECT_EXIT(exit_with_switch(), ::testing::ExitedWithCode(0), "");
  ::setenv("DIFFUSERS_FUSED", "1", 1);
  EXPECT_EXIT(exit_with_switch(), ::testing::ExitedWithCode(1), "");
  ::setenv("DIFFUSERS_FUSED", "off", 1);
  EXPECT_EXIT(exit_with_switch(), ::testing::ExitedWithCode(2),
              "DIFFUSERS_FUSED is \"off\", expected \"0\" or \"1\"");
  ::unsetenv("DIFFUSERS_FUSED");
  EXPECT_EXIT(exit_with_switch(), ::testing::ExitedWithCode(1), "");
}

}  // namespace
}  // namespace diffusers
