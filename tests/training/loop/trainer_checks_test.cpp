// Errors and warnings of a Trainer, and the time at which they are reported.

#include <functional>
#include <memory>
#include <span>
#include <string>

#include <diffusers/io/files.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/loop/training_run.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::LogCapture;
using test::quiet_config;
using test::TemporaryFolder;
using test::TinyImages;
using test::TinyNet;

TEST(Trainer, RefusesABadConfigurationWhenItIsMade) {
  const TemporaryFolder folder;
  const std::string output_dir = folder / "run";
  const auto refuses = [&](const std::function<void(TrainingConfig&)>& change, const char* message) {
    TrainingConfig config = quiet_config(output_dir);
    change(config);
    expect_throws_with<ConfigError>([&] { Trainer(TinyNet(), DDPMScheduler(), config); }, message);
  };
  refuses([](TrainingConfig& c) { c.lr_scheduler = "cosin"; }, "lr_scheduler is \"cosin\"");
  refuses([](TrainingConfig& c) { c.lr_scheduler = "piecewise_constant"; }, "step_rules is empty");
  refuses(
      [](TrainingConfig& c) {
        c.lr_scheduler = "piecewise_constant";
        c.lr_step_rules = "1:10,x";
      },
      "\"x\" is not a number");
  refuses(
      [](TrainingConfig& c) {
        c.lr_scheduler = "polynomial";
        c.learning_rate = 0.0;
      },
      "learning_rate is 0");
  refuses(
      [](TrainingConfig& c) {
        c.lr_scheduler = "polynomial";
        c.max_train_steps = 7;
        c.lr_warmup_steps = 7;
      },
      "num_training_steps is 7");
  refuses([](TrainingConfig& c) { c.sgd_momentum = 0.9; }, "sgd_momentum is 0.9");
  refuses([](TrainingConfig& c) { c.freeze = {"conv_inn.*"}; }, "conv_inn.*");
  refuses([](TrainingConfig& c) { c.train_only = {"conv_inn.*"}; }, "conv_inn.*");
  refuses([](TrainingConfig& c) { c.no_decay = {"conv_inn.*"}; }, "conv_inn.*");
  refuses([](TrainingConfig& c) { c.freeze = {"*"}; }, "none of which requires a gradient");
  refuses([](TrainingConfig& c) { c.dataloader_num_workers = 1025; }, "dataloader_num_workers is 1025");
  refuses([](TrainingConfig& c) { c.post_hoc_ema_sigma_rels = {0.9}; }, "sigma_rel is 0.9");
  refuses([](TrainingConfig& c) { c.post_hoc_ema_sigma_rels = {0.1, 0.1}; }, "holds 0.1 twice");
  TinyNet half;
  half->to(at::kHalf);
  expect_throws_with<ConfigError>([&] { Trainer(half, DDPMScheduler(), quiet_config(output_dir)); },
                                  "float16");
  EXPECT_FALSE(folder_exists(output_dir));

  // The constructor of Trainer does not freeze parameters yet.
  TrainingConfig config = quiet_config(output_dir);
  config.freeze = {"conv_in.*"};
  TinyNet model;
  const Trainer trainer(model, DDPMScheduler(), config);
  EXPECT_TRUE(model->conv_in->weight.requires_grad());
  EXPECT_FALSE(folder_exists(output_dir));
}

TEST(Trainer, RefusesAnEmptyModel) {
  const TrainingConfig config;
  expect_throws_with<ConfigError>([&] { Trainer(UNet2DModel(nullptr), DDPMScheduler(), config); },
                                  "empty holder");
  expect_throws_with<ConfigError>([&] { Trainer(TinyNet(nullptr), DDPMScheduler(), config); },
                                  "empty holder");
  expect_throws_with<ConfigError>(
      [&] { Trainer(std::shared_ptr<test::TinyNetImpl>(), DDPMScheduler(), config); }, "empty holder");
  expect_throws_with<ConfigError>([&] { Trainer(nullptr, config); }, "there is no task");
}

TEST(Trainer, RefusesAnEmptyBatch) {
  class EmptyBatches : public TinyImages {
   public:
    using TinyImages::TinyImages;
    Batch get_batch(std::span<const int64_t>, uint64_t) const override {
      return {.images = at::empty({0, 1, 6, 6})};
    }
  };
  const TemporaryFolder folder;
  Trainer trainer(TinyNet(), DDPMScheduler(), quiet_config(folder.path()));
  EXPECT_THROW(trainer.train(EmptyBatches(8)), Error);
}

TEST(Trainer, TellsThatItRunsOnTheCPUThoughThereIsADevice) {
  LogCapture log;
  EXPECT_FALSE(warn_of_cpu_training(at::kCPU, 1, /*has_cuda=*/false));
  EXPECT_FALSE(warn_of_cpu_training(at::Device(at::kCUDA, 0), 1, true));
  EXPECT_FALSE(warn_of_cpu_training(at::kCPU, 4, true));  // enabled by cpu_data_parallel
  EXPECT_FALSE(log.contains("CPU"));
  EXPECT_TRUE(warn_of_cpu_training(at::kCPU, 1, true));
  EXPECT_TRUE(log.contains("the training runs on the CPU"));
  EXPECT_TRUE(log.contains("model->to(torch::kCUDA)"));
}

}  // namespace
}  // namespace diffusers
