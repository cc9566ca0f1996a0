// Signals that save a checkpoint and stop a training, and its resumption.

#include <csignal>
#include <cstdint>
#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/loop/stop_signals.h"
#include "training/quick_training.h"
#include "training/resumable_training.h"

namespace diffusers {
namespace {

using test::expect_same_checkpoint;
using test::resumable_config;
using test::resumable_images;
using test::TemporaryFolder;
using test::TinyNet;
using test::train_until;

TEST(Signals, SaveAndStopTheTraining) {
  const TemporaryFolder whole;
  train_until(resumable_config(whole.path()), -1);
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) {
    const TemporaryFolder folder;
    TrainingConfig config = resumable_config(folder.path());
    config.handle_signals = true;
    manual_seed(1);
    Trainer trainer(TinyNet(0.2), DDPMScheduler(), config);
    trainer.on_step([&](int64_t step) {
      if (step == 4) std::raise(number);
    });
    const TrainingResult result = trainer.train(resumable_images());
    EXPECT_EQ(result.signal, number);
    EXPECT_EQ(result.global_step, 4);
    EXPECT_FALSE(result.is_complete);
    config.resume_from_checkpoint = "latest";
    EXPECT_TRUE(train_until(config, -1).is_complete);
    expect_same_checkpoint(folder / "checkpoint-9", whole / "checkpoint-9");
  }
}

TEST(Signals, EndTheProgramTheSecondTime) {
  ::testing::GTEST_FLAG(death_test_style) = "threadsafe";
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) {
    const auto raise_twice = [&] {
      const StopSignals signals(true);
      std::raise(number);
      if (signals.received() == number) std::raise(number);
    };
    EXPECT_EXIT(raise_twice(), ::testing::KilledBySignal(number), "");
  }
}

TEST(Signals, AreSeenByPreviews) {
  const TemporaryFolder folder;
  TrainingConfig config = resumable_config(folder.path());
  config.validation_steps = 1;
  config.handle_signals = true;
  Trainer trainer(TinyNet(), DDPMScheduler(), config);
  std::vector<bool> answers;
  trainer.on_preview([&](const PreviewContext& context) {
    answers.push_back(context.stop_requested());
    if (context.step == 2) std::raise(SIGUSR1);
    answers.push_back(context.stop_requested());
  });
  EXPECT_EQ(trainer.train(resumable_images()).signal, SIGUSR1);
  EXPECT_EQ(answers, (std::vector<bool>{false, false, false, true}));
}

}  // namespace
}  // namespace diffusers
