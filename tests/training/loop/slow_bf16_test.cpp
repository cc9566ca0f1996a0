#include "training/loop/slow_bf16.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/log_capture.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::LogCapture;

TEST(SlowBf16, IsWarnedOfOnACPUWithoutTheInstructions) {
  const LogCapture log;
  EXPECT_FALSE(warn_of_slow_bf16(at::kCPU, MixedPrecision::kBf16, /*multiplies_bf16=*/true));
  EXPECT_FALSE(warn_of_slow_bf16(at::kCPU, MixedPrecision::kNo, false));
  EXPECT_FALSE(warn_of_slow_bf16(at::Device(at::kCUDA, 0), MixedPrecision::kBf16, false));
  EXPECT_TRUE(log.messages().empty());
  EXPECT_TRUE(warn_of_slow_bf16(at::kCPU, MixedPrecision::kBf16, false));
  EXPECT_TRUE(log.contains("mixed_precision is \"bf16\", but this processor has no AMX"));
  EXPECT_TRUE(log.contains("set mixed_precision to \"no\""));
}

TEST(SlowBf16, IsWarnedOfOnceInATraining) {
  const LogCapture log;
  const test::TemporaryFolder folder;
  TrainingConfig config = test::quiet_config(folder.path());
  config.mixed_precision = MixedPrecision::kBf16;
  Trainer(test::seeded_net(), DDPMScheduler(), config).train(test::TinyImages(8));
  const auto count = std::count_if(log.messages().begin(), log.messages().end(), [](const auto& message) {
    return message.find("this processor has no AMX") != std::string::npos;
  });
  EXPECT_EQ(count, processor_multiplies_bf16() ? 0 : 1);
}

#if defined(__x86_64__) && defined(__linux__)
TEST(SlowBf16, KnowsTheInstructionsThatTheKernelLists) {
  std::ifstream file("/proc/cpuinfo");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  EXPECT_EQ(processor_multiplies_bf16(), text.find(" amx_bf16") != std::string::npos);
}
#endif

}  // namespace
}  // namespace diffusers
