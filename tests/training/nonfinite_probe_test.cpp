#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/logging.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "quick_training.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::CapturedLog;
using test::copies;
using test::expect_equal;
using test::expect_throws_with;
using test::quiet_config;
using test::seeded_net;
using test::TinyImages;
using test::TinyNet;

TEST(Trainer, SkipsASingleBadStepAndStopsAfterAFew) {
  const LogSink previous = set_log_sink([](LogLevel, std::string_view) {});
  {
    const test::TemporaryFolder folder;
    TinyImages images(20);
    images.images()[7].fill_(std::nan(""));
    TinyNet model = seeded_net();
    TrainingConfig config = quiet_config(folder.path());
    config.train_batch_size = 1;
    config.use_ema = true;
    config.checkpointing_steps = 10;
    const TrainingResult result = Trainer(model, DDPMScheduler(), config).train(images);
    EXPECT_EQ(result.skipped_steps, 1);
    for (const Tensor& parameter : model->parameters()) EXPECT_TRUE(parameter.isfinite().all().item<bool>());
    EXPECT_TRUE(std::isfinite(result.loss));
  }
  {
    const test::TemporaryFolder folder;
    TinyImages images(20);
    images.images().fill_(std::numeric_limits<float>::infinity());
    TinyNet model = seeded_net();
    const std::vector<Tensor> before = copies(model->parameters());
    TrainingConfig config = quiet_config(folder.path());
    config.train_batch_size = 1;
    config.checkpointing_steps = 10;
    expect_throws_with<Error>([&] { Trainer(model, DDPMScheduler(), config).train(images); },
                              "max_nonfinite_steps is 5");
    for (std::size_t i = 0; i < before.size(); ++i) expect_equal(model->parameters()[i].detach(), before[i]);
    EXPECT_FALSE(folder_exists(folder / "unet"));
    EXPECT_FALSE(folder_exists(folder / "checkpoint-10"));
  }
  set_log_sink(previous);
}

TEST(Trainer, NamesTheModuleWhoseOutputWasNotFiniteFirst) {
  struct OverflowingNetImpl : torch::nn::Module {
    OverflowingNetImpl() {
      first = register_module("first", torch::nn::Conv2d(torch::nn::Conv2dOptions(1, 2, 1)));
      second = register_module("second", torch::nn::Conv2d(torch::nn::Conv2dOptions(2, 1, 1)));
      const at::NoGradGuard no_grad;
      second->weight.fill_(3e38);
    }
    Tensor forward(const Tensor& sample, const Tensor&) { return second(first(sample) * 10); }
    torch::nn::Conv2d first{nullptr}, second{nullptr};
  };
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.logging_steps = 100;
  config.max_nonfinite_steps = 3;
  config.num_epochs = 10;
  const CapturedLog log;
  Trainer trainer(std::make_shared<OverflowingNetImpl>(), DDPMScheduler(), config);
  int64_t steps = 0;
  trainer.on_step([&](int64_t step) { steps = step; });
  expect_throws_with<Error>([&] { trainer.train(TinyImages(20)); }, "first in the output of second (aten::");
  EXPECT_EQ(steps, 2);  // the third ends it, long before the next logging step
}

TEST(Trainer, NamesABadBatchAndABadParameter) {
  const auto message = [](bool bad_images) {
    const test::TemporaryFolder folder;
    TinyImages images(8);
    TinyNet model = seeded_net();
    if (bad_images) {
      images.images().fill_(std::nan(""));
    } else {
      const at::NoGradGuard no_grad;
      model->time->bias.fill_(std::nan(""));
    }
    TrainingConfig config = quiet_config(folder.path());
    config.max_nonfinite_steps = 1;
    try {
      Trainer(model, DDPMScheduler(), config).train(images);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_NE(message(true).find("first in the images of the batch"), std::string::npos) << message(true);
  EXPECT_NE(message(false).find("first in the parameter time.bias"), std::string::npos) << message(false);
}

// The step is computed once more to name the module; what the task learned of it counts once.
TEST(Trainer, LearnsOfABadStepOnce) {
  const CapturedLog log;
  const test::TemporaryFolder folder;
  TinyImages images(20);
  images.images()[7].fill_(std::nan(""));
  TrainingConfig config = quiet_config(folder.path());
  config.timestep_sampling = TimestepSampling::kLossSecondMoment;
  Trainer trainer(seeded_net(), DDPMScheduler({.num_train_timesteps = 5}), config);
  trainer.train(images);
  EXPECT_EQ(trainer.task().state().at("losses_seen").sum().item<int64_t>(), 20);
  config.overwrite_output_dir = true;
  TinyNet model = seeded_net();
  model->conv_in->bias.detach().fill_(std::numeric_limits<float>::max());
  config.max_nonfinite_steps = 100;
  Trainer overflowing(model, DDPMScheduler({.num_train_timesteps = 5}), config);
  overflowing.train(TinyImages(20));
  EXPECT_EQ(overflowing.task().state().at("losses_seen").sum().item<int64_t>(), 20);
}

}  // namespace
}  // namespace diffusers
