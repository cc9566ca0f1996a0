#include "training/checkpoint/host_memory.h"

#include <string>

#include <diffusers/io/files.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/log_capture.h"
#include "training/checkpoint/checkpoint.h"
#include "training/quick_training.h"
#include "training/tiny_model.h"

namespace diffusers {
namespace {

using test::LogCapture;
using test::TemporaryFolder;

TEST(HostMemory, IsReadFromTheFilesOfLinux) {
  const TemporaryFolder folder;
  write_file("MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:    2000000 kB\n",
             folder / "meminfo");
  write_file("Name:\ttrain\nVmHWM:\t  500 kB\nVmRSS:\t  300 kB\n", folder / "status");
  const auto memory = read_host_memory(folder / "meminfo", folder / "status");
  ASSERT_TRUE(memory.has_value());
  EXPECT_EQ(memory->available, 2'048'000'000);
  EXPECT_EQ(memory->resident, 307'200);
  EXPECT_EQ(memory->peak_resident, 512'000);

  // Other systems have no such files, or others.
  EXPECT_FALSE(read_host_memory(folder / "nowhere", folder / "status"));
  write_file("Name:\ttrain\nVmHWM:\tmuch\nVmRSS:\t  300 kB\n", folder / "status");
  EXPECT_FALSE(read_host_memory(folder / "meminfo", folder / "status"));
}

TEST(HostMemory, OfThisProcessIsPlausible) {
  const auto memory = current_host_memory();
  ASSERT_TRUE(memory.has_value());
  EXPECT_GT(memory->available, 0);
  EXPECT_GT(memory->resident, 10'000'000);
  EXPECT_GE(memory->peak_resident, memory->resident);
}

TEST(HostMemory, ACopyNeedsRoomBesideTheNextStep) {
  const HostMemory memory{.available = 100, .resident = 60, .peak_resident = 80};
  EXPECT_TRUE(has_room_for_copy(80, memory));
  EXPECT_FALSE(has_room_for_copy(81, memory));
  EXPECT_TRUE(has_room_for_copy(81, std::nullopt));
}

/// Trains for four steps with a checkpoint after each two.
void train_with_checkpoints(const std::string& folder, bool uses_ema) {
  TrainingConfig config = test::quiet_config(folder);
  config.max_train_steps = 4;
  config.checkpointing_steps = 2;
  config.use_ema = uses_ema;
  config.tensorboard = false;
  config.report = false;
  Trainer(test::seeded_net(0.2), DDPMScheduler(), config).train(test::TinyImages(16));
}

TEST(HostMemory, WithoutRoomForACopyTheTrainingWaitsForTheSameCheckpoint) {
  for (const bool uses_ema : {false, true}) {
    const LogCapture log;
    const TemporaryFolder roomy, full;
    train_with_checkpoints(roomy.path(), uses_ema);
    EXPECT_FALSE(log.contains("background_checkpoints"));
    {
      const FakeHostMemory fake({.available = 1000, .resident = 5, .peak_resident = 5});
      train_with_checkpoints(full.path(), uses_ema);
    }
    int warnings = 0;
    for (const std::string& message : log.messages())
      warnings += message.find("the checkpoint is written without a copy") != std::string::npos ? 1 : 0;
    EXPECT_EQ(warnings, 1);
    for (const int64_t step : {2, 4})
      for (const char* name : {"unet/diffusion_pytorch_model.safetensors", "optimizer.safetensors"})
        EXPECT_EQ(read_text_file(join_path(checkpoint_path(full.path(), step), name)),
                  read_text_file(join_path(checkpoint_path(roomy.path(), step), name)))
            << name << " of step " << step;
  }
}

}  // namespace
}  // namespace diffusers
