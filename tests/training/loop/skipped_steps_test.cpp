// Skipped steps: loss scaling that does not recover, and the learning rate.

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/lr_scheduler.h>
#include <diffusers/training/optimizer.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/loop/device_lr.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::LogCapture;
using test::quiet_config;
using test::seeded_net;
using test::TemporaryFolder;
using test::TinyImages;
using test::TinyNet;

/// A model with finite predictions and non-finite gradients.
struct BrokenGradientNetImpl : test::TinyNetImpl {
  Tensor forward(const Tensor& sample, const Tensor& timesteps) {
    const Tensor zero = (conv_out->bias - conv_out->bias.detach()).sqrt();  // its derivative is infinite
    return test::TinyNetImpl::forward(sample, timesteps) + zero.view({1, 1, 1, 1});
  }
};

/// Makes the gradient of the output's bias infinite in the given steps, counted from 0.
void overflow_in(TinyNet& model, std::vector<int64_t> steps, int64_t first_step = 0) {
  auto step = std::make_shared<int64_t>(first_step);
  model->conv_out->bias.register_hook([step, steps = std::move(steps)](const Tensor& grad) {
    const bool overflows = std::find(steps.begin(), steps.end(), (*step)++) != steps.end();
    return overflows ? grad * std::numeric_limits<float>::infinity() : grad;
  });
}

TEST(Trainer, StopsAHalfPrecisionTrainingWhoseGradientsAreNeverFinite) {
  const LogCapture log;
  const TemporaryFolder folder;
  manual_seed(11);
  const auto model = std::make_shared<BrokenGradientNetImpl>();
  const std::vector<Tensor> before = copies(model->parameters());
  TrainingConfig config = quiet_config(folder.path());
  config.mixed_precision = MixedPrecision::kFp16;
  config.max_train_steps = 100;
  Trainer trainer(model, DDPMScheduler(), config);
  int64_t steps = 0;
  trainer.on_step([&](int64_t step) { steps = step; });
  expect_throws_with<Error>([&] { trainer.train(TinyImages(20)); }, "max_nonfinite_steps is 5");
  EXPECT_EQ(
      steps,
      20);  // the scale is halved 16 times from 65536 to 1, and the fifth step after that ends the training
  for (std::size_t i = 0; i < before.size(); ++i) expect_equal(model->parameters()[i].detach(), before[i]);
  EXPECT_FALSE(folder_exists(folder / "unet"));
}

TEST(Trainer, PublishesNothingIfEachStepWasSkipped) {
  for (const MixedPrecision precision : {MixedPrecision::kFp16, MixedPrecision::kNo}) {
    const LogCapture log;
    const TemporaryFolder folder;
    manual_seed(11);
    TrainingConfig config = quiet_config(folder.path());
    config.mixed_precision = precision;
    config.max_train_steps = 10;  // too few steps for the loss scale to be reduced
    config.max_nonfinite_steps = 100;
    config.validation_steps = 100;
    Trainer trainer(std::make_shared<BrokenGradientNetImpl>(), DDPMScheduler(), config);
    int previews = 0;
    trainer.on_preview([&](const PreviewContext&) { ++previews; });
    expect_throws_with<Error>([&] { trainer.train(TinyImages(20)); }, "all 10 steps were skipped");
    EXPECT_FALSE(folder_exists(folder / "unet"));
    EXPECT_FALSE(file_exists(folder / "model_index.json"));
    EXPECT_EQ(previews, 0);
  }
}

TEST(Trainer, ToleratesOverflowsThatTheLossScaleMends) {
  const LogCapture log;
  const TemporaryFolder folder;
  TinyNet model = seeded_net();
  std::vector<int64_t> bad;
  for (int64_t step = 0; step < 15; ++step) bad.push_back(step);  // reduces the scale to 2
  overflow_in(model, bad);
  TrainingConfig config = quiet_config(folder.path());
  config.mixed_precision = MixedPrecision::kFp16;
  config.max_train_steps = 20;
  const TrainingResult result = Trainer(model, DDPMScheduler(), config).train(TinyImages(20));
  EXPECT_TRUE(result.is_complete);
  EXPECT_EQ(result.skipped_steps, 15);
}

TEST(Trainer, RefusesALossThatDependsOnNothingTrained) {
  struct DetachedNetImpl : test::TinyNetImpl {
    Tensor forward(const Tensor& sample, const Tensor& timesteps) {
      return test::TinyNetImpl::forward(sample, timesteps).detach();
    }
  };
  const TemporaryFolder folder;
  Trainer trainer(std::make_shared<DetachedNetImpl>(), DDPMScheduler(), quiet_config(folder.path()));
  expect_throws_with<ConfigError>([&] { trainer.train(TinyImages(4)); }, "depends on none of the 6");
}

/// Returns the learning rates of accelerate's scheduler, which is stepped only if the optimizer was stepped.
std::vector<double> rates_of_accelerate(const LRSchedule& schedule, double lr, int64_t steps,
                                        const std::vector<int64_t>& skipped) {
  std::vector<double> rates;
  int64_t taken = 0;
  for (int64_t step = 0; step < steps; ++step) {
    rates.push_back(lr * schedule(taken));
    if (std::find(skipped.begin(), skipped.end(), step) == skipped.end()) ++taken;
  }
  return rates;
}

TEST(Trainer, CountsStepsThatWereTakenForTheLearningRate) {
  for (const MixedPrecision precision : {MixedPrecision::kFp16, MixedPrecision::kNo}) {
    const LogCapture log;
    const TemporaryFolder folder;
    TinyNet model = seeded_net();
    const std::vector<int64_t> bad{0, 1, 4, 8};
    overflow_in(model, bad);
    TrainingConfig config = quiet_config(folder.path());
    config.mixed_precision = precision;
    config.lr_scheduler = "linear";
    config.lr_warmup_steps = 3;
    config.max_train_steps = 10;
    Trainer trainer(model, DDPMScheduler(), config);
    std::vector<double> rates;
    trainer.on_log([&](const TrainingProgress& progress) { rates.push_back(progress.lr); });
    EXPECT_EQ(trainer.train(TinyImages(20)).skipped_steps, 4);
    const LRSchedule schedule = get_scheduler("linear", {.num_warmup_steps = 3, .num_training_steps = 10});
    EXPECT_EQ(rates, rates_of_accelerate(schedule, config.learning_rate, 10, bad));
  }
}

// SGD without momentum changes a weight by the learning rate times its gradient, so a rate of zero does not
// change it.
TEST(Trainer, StepsWithTheLearningRateOfTheStepsTaken) {
  const LogCapture log;
  const TemporaryFolder folder;
  TinyNet model = seeded_net();
  overflow_in(model, {0, 1});
  TrainingConfig config = quiet_config(folder.path());
  config.optimizer = OptimizerType::kSGD;
  config.lr_scheduler = "piecewise_constant";
  config.lr_step_rules = "0:1,1";  // the first step that is not skipped has a rate of zero
  config.max_train_steps = 4;
  std::vector<std::vector<Tensor>> weights{copies(model->parameters())};
  Trainer trainer(model, DDPMScheduler(), config);
  trainer.on_step([&](int64_t) { weights.push_back(copies(model->parameters())); });
  trainer.train(TinyImages(16));
  ASSERT_EQ(weights.size(), 5U);
  for (const std::size_t step : {1U, 2U, 3U}) expect_equal(weights[step][0], weights[0][0]);
  EXPECT_FALSE(at::equal(weights[4][0], weights[3][0]));
}

TEST(Resume, CountsTheStepsThatWereTaken) {
  const LogCapture log;
  const auto train = [](const std::string& path, int64_t first_step, int64_t stop) {
    TinyNet model = seeded_net();
    overflow_in(model, {1, 2, 5}, first_step);
    TrainingConfig config = quiet_config(path);
    config.mixed_precision = MixedPrecision::kFp16;
    config.lr_scheduler = "cosine";
    config.lr_warmup_steps = 2;
    config.max_train_steps = 9;
    config.checkpointing_steps = 9;
    config.logging_steps = 4;
    if (first_step > 0) config.resume_from_checkpoint = "latest";
    Trainer trainer(model, DDPMScheduler(), config);
    trainer.on_step([&](int64_t step) {
      if (step == stop) trainer.request_stop();
    });
    trainer.train(TinyImages(20));
  };
  const TemporaryFolder whole;
  train(whole.path(), 0, -1);
  for (const int64_t stop : {2, 3, 6}) {
    const TemporaryFolder folder;
    train(folder.path(), 0, stop);
    train(folder.path(), stop, -1);
    for (const char* name :
         {"unet/diffusion_pytorch_model.safetensors", "optimizer.safetensors", "trainer_state.safetensors"})
      EXPECT_EQ(read_text_file(join_path(folder / "checkpoint-9", name)),
                read_text_file(join_path(whole / "checkpoint-9", name)))
          << name << " " << stop;
  }
}

TEST(DeviceLr, FollowsTheScheduleByStepsThatWereTaken) {
  const LRSchedule schedule = get_scheduler("cosine", {.num_warmup_steps = 3, .num_training_steps = 40});
  const auto is_bad = [](int64_t step) { return step % 5 == 1 || step < 2; };
  for (const int64_t window : {1, 4, 100}) {
    DeviceLr device_lr(schedule, window, at::kCPU);
    EXPECT_TRUE(device_lr.needs_settling(0));
    Tensor skipped = at::zeros({});
    int64_t taken = 0;
    for (int64_t step = 0; step < 40; ++step) {
      if (device_lr.needs_settling(step)) device_lr.settle(step, step - taken);
      const Tensor factor = device_lr.factor(step, skipped);
      EXPECT_EQ(factor.scalar_type(), at::kDouble);
      EXPECT_EQ(factor.item<double>(), schedule(taken)) << step;
      if (is_bad(step)) {
        skipped += 1;
      } else {
        ++taken;
      }
    }
  }
}

TEST(Optimizer, StepsAlikeWithALearningRateOnTheDevice) {
  for (const OptimizerType type : {OptimizerType::kAdamW, OptimizerType::kAdam, OptimizerType::kSGD,
                                   OptimizerType::kLion, OptimizerType::kAdafactor}) {
    const auto train = [&](bool on_device) {
      TinyNet model = seeded_net();
      std::vector<ParameterGroup> groups(2);
      for (const Tensor& parameter : model->parameters())
        groups[parameter.dim() > 1 ? 0 : 1].params.push_back(parameter);
      groups[1].lr_factor = 0.5;
      OptimizerConfig config = default_optimizer_config(type);
      config.weight_decay = 0.1;
      Optimizer optimizer(groups, config);
      for (int step = 0; step < 6; ++step) {
        model->forward(at::ones({2, 1, 6, 6}), at::ones({2})).square().sum().backward();
        const double factor = 1.0 / (step + 1);
        const Tensor found_inf = step < 2 ? Tensor() : at::full({1}, step == 3 ? 1.0F : 0.0F);
        if (on_device) {
          optimizer.step_with_device_factor(at::full({}, factor, at::kDouble), found_inf);
        } else {
          optimizer.step(factor, found_inf);
        }
        optimizer.zero_grad();
      }
      return copies(model->parameters());
    };
    const std::vector<Tensor> host = train(false);
    const std::vector<Tensor> device = train(true);
    for (std::size_t i = 0; i < host.size(); ++i)
      expect_close(device[i], host[i], 1e-5, 1e-6, std::string(enum_name(type)));
  }
  Optimizer optimizer(std::vector<Tensor>{at::zeros({2}).requires_grad_()});
  expect_throws_with<TensorError>([&] { optimizer.step_with_device_factor(at::ones({})); }, "float64");
}

}  // namespace
}  // namespace diffusers
