#include <cmath>
#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/diffusion_task_options.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::quiet_config;
using test::TinyImages;
using test::TinyNet;

TEST(TrainingConfig, TakesStringsForEnumerators) {
  const TrainingConfig config{.mixed_precision = "bf16",
                              .optimizer = "lion",
                              .loss_type = "huber",
                              .huber_schedule = "snr",
                              .timestep_bias_strategy = "later"};
  const DiffusionTaskOptions options{
      .weighting = "p2", .timestep_sampling = "logit_normal", .learned_log_variance = "table"};
  EXPECT_EQ(config.mixed_precision, MixedPrecision::kBf16);
  EXPECT_EQ(config.optimizer, OptimizerType::kLion);
  EXPECT_EQ(config.loss_type, LossType::kHuber);
  EXPECT_EQ(config.huber_schedule, HuberSchedule::kSnr);
  EXPECT_EQ(options.weighting, LossWeighting::kP2);
  EXPECT_EQ(options.timestep_sampling, TimestepSampling::kLogitNormal);
  EXPECT_EQ(config.timestep_bias_strategy, TimestepBias::kLater);
  EXPECT_EQ(options.learned_log_variance, LogVarianceType::kTable);
  EXPECT_EQ(DiffusionLossOptions{.reduction = "none"}.reduction, LossReduction::kNone);
  EXPECT_EQ(TimestepSamplingOptions{.strategy = "antithetic"}.strategy, TimestepSampling::kAntithetic);
  EXPECT_EQ(OptimizerConfig{.type = "sgd"}.type, OptimizerType::kSGD);
  expect_throws_with<ConfigError>([] { TrainingConfig{.mixed_precision = "fp8"}; },
                                  R"(mixed_precision is "fp8", expected one of: "no" "fp16" "bf16")");
  expect_throws_with<ConfigError>([] { OptimizerConfig{.type = "adamw8bit"}; },
                                  R"(optimizer is "adamw8bit")");
}

TEST(TrainingConfig, NamesTheKeyAndTheValueThatCannotWork) {
  struct Case {
    void (*change)(TrainingConfig&);
    const char* message;
  };
  const std::vector<Case> cases{
      {[](TrainingConfig& c) { c.output_dir.clear(); }, "output_dir"},
      {[](TrainingConfig& c) { c.seed = -1; }, "seed is -1"},
      {[](TrainingConfig& c) { c.train_batch_size = 0; }, "train_batch_size is 0"},
      {[](TrainingConfig& c) { c.num_epochs = 0; }, "num_epochs is 0"},
      {[](TrainingConfig& c) { c.max_train_steps = 0; }, "max_train_steps is 0"},
      {[](TrainingConfig& c) { c.gradient_accumulation_steps = 0; }, "gradient_accumulation_steps is 0"},
      {[](TrainingConfig& c) { c.gradient_checkpointing = true; }, "gradient_checkpointing is true"},
      {[](TrainingConfig& c) { c.learning_rate = std::nan(""); }, "learning_rate is nan"},
      {[](TrainingConfig& c) { c.lr_warmup_steps = -2; }, "lr_warmup_steps is -2"},
      {[](TrainingConfig& c) { c.snr_gamma = -5.0; }, "snr_gamma is -5"},
      {[](TrainingConfig& c) { c.noise_offset = -0.1; }, "noise_offset is -0.1"},
      {[](TrainingConfig& c) { c.max_grad_norm = -1; }, "max_grad_norm is -1"},
      {[](TrainingConfig& c) { c.ema_max_decay = 2; }, "ema_max_decay is 2"},
      {[](TrainingConfig& c) { c.ema_inv_gamma = 0; }, "ema_inv_gamma is 0"},
      {[](TrainingConfig& c) { c.adam_beta1 = 1; }, "adam_beta1 is 1"},
      {[](TrainingConfig& c) { c.adam_epsilon = -1; }, "adam_epsilon is -1"},
      {[](TrainingConfig& c) { c.checkpoints_total_limit = 0; }, "checkpoints_total_limit is 0"},
      {[](TrainingConfig& c) { c.logging_steps = 0; }, "logging_steps is 0"},
      {[](TrainingConfig& c) { c.dataloader_num_workers = -1; }, "dataloader_num_workers is -1"},
      {[](TrainingConfig& c) { c.cpu_data_parallel = -1; }, "cpu_data_parallel is -1"},
      {[](TrainingConfig& c) { c.huber_c = 0; }, "huber_c is 0"},
  };
  for (const Case& one : cases) {
    TrainingConfig config = quiet_config("unused");
    one.change(config);
    expect_throws_with<ConfigError>([&] { Trainer(TinyNet(), DDPMScheduler(), config); }, one.message);
  }
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  config.lr_scheduler = "cosinus";
  expect_throws_with<ConfigError>([&] { Trainer(TinyNet(), DDPMScheduler(), config).train(TinyImages(4)); },
                                  "lr_scheduler is \"cosinus\"");
  config = quiet_config(folder.path());
  config.resolution = 8;
  expect_throws_with<ConfigError>([&] { Trainer(TinyNet(), DDPMScheduler(), config).train(TinyImages(4)); },
                                  "resolution is 8");
}

}  // namespace
}  // namespace diffusers
