// A training on a device and in half precision equals the training on the CPU.

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_close;
using test::LogCapture;
using test::quiet_config;
using test::seeded_net;
using test::TemporaryFolder;
using test::TinyImages;

/// A task that draws noise and timesteps on the CPU, so they are the same for each device.
class HostNoiseTask : public DiffusionTask {
 public:
  using DiffusionTask::DiffusionTask;
  void begin_step(const StepContext& context) override {
    DiffusionTask::begin_step(context);
    step_ = context.step;
  }

 protected:
  Draw draw(const Tensor& x0) override {
    const Generator generator = make_generator(100 + static_cast<uint64_t>(step_));
    const Tensor noise = at::randn(x0.sizes(), generator, at::kDouble).to(x0.options());
    const Tensor timesteps = at::randint(0, 1000, {x0.size(0)}, generator, at::kLong).to(x0.device());
    return {noise, noise, timesteps};
  }

 private:
  int64_t step_ = 0;
};

/// The learning rate rises and falls, and the third step is skipped.
TrainingConfig five_steps(const TemporaryFolder& folder, OptimizerType optimizer) {
  TrainingConfig config = quiet_config(folder.path());
  config.max_train_steps = 5;
  config.lr_scheduler = "cosine";
  config.lr_warmup_steps = 2;
  config.logging_steps = 2;
  config.learning_rate = optimizer == OptimizerType::kLion ? 1e-3 : 1e-2;
  config.optimizer = optimizer;
  config.use_ema = true;
  config.tensorboard = false;
  config.report = false;
  return config;
}

std::vector<Tensor> train_five_steps(at::Device device, OptimizerType optimizer) {
  const LogCapture log;
  const TemporaryFolder folder;
  auto model = seeded_net();
  model->to(device, at::kDouble);
  auto step = std::make_shared<int>(0);
  model->conv_out->bias.register_hook(
      [step](const Tensor& grad) { return ++*step == 3 ? grad * INFINITY : grad; });
  Trainer trainer(std::make_shared<HostNoiseTask>(make_trainable(model), DDPMScheduler()),
                  five_steps(folder, optimizer));
  const TrainingResult result = trainer.train(TinyImages(20));
  EXPECT_EQ(result.skipped_steps, 1);
  std::vector<Tensor> weights = copies(model->parameters());
  for (Tensor& tensor : weights) tensor = tensor.cpu();
  weights.push_back(at::full({1}, result.loss, at::kDouble));
  return weights;
}

TEST(Trainer, GivesTheSameOnADevice) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  for (const OptimizerType optimizer : {OptimizerType::kAdamW, OptimizerType::kAdam, OptimizerType::kSGD,
                                        OptimizerType::kLion, OptimizerType::kAdafactor}) {
    const std::vector<Tensor> host = train_five_steps(at::kCPU, optimizer);
    const std::vector<Tensor> device = train_five_steps(at::Device(at::kCUDA, 0), optimizer);
    // The learning rate on the device is float32.
    for (std::size_t i = 0; i < host.size(); ++i)
      expect_close(device[i], host[i], 1e-5, 1e-7, std::string(enum_name(optimizer)));
  }
}

UNet2DModel small_attention_unet() {
  manual_seed(5);
  return UNet2DModel({.sample_size = 8,
                      .in_channels = 1,
                      .out_channels = 1,
                      .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                      .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                      .block_out_channels = {16, 32},
                      .layers_per_block = 1,
                      .norm_num_groups = 4});
}

/// Returns the loss of each step.
std::vector<double> losses_of(MixedPrecision precision, at::Device device) {
  const LogCapture log;
  const TemporaryFolder folder;
  UNet2DModel model = small_attention_unet();
  model->to(device);
  TrainingConfig config = five_steps(folder, OptimizerType::kAdamW);
  config.learning_rate = 1e-3;
  config.logging_steps = 1;
  config.mixed_precision = precision;
  Trainer trainer(std::make_shared<HostNoiseTask>(make_trainable(model), DDPMScheduler()), config);
  std::vector<double> losses;
  trainer.on_log([&](const TrainingProgress& progress) { losses.push_back(progress.loss); });
  trainer.train(TinyImages(20, false, 8));
  return losses;
}

void expect_near_relative(const std::vector<double>& actual, const std::vector<double>& expected,
                          double tolerance) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i)
    EXPECT_NEAR(actual[i], expected[i], tolerance * expected[i]) << "step " << i + 1;
}

// bfloat16 rounds to 1 part in 256, and a loss averages many rounding errors.
TEST(Trainer, TrainsAUNetInBfloat16AsInFloat32) {
  const std::vector<double> full = losses_of(MixedPrecision::kNo, at::kCPU);
  const std::vector<double> half = losses_of(MixedPrecision::kBf16, at::kCPU);
  expect_near_relative(half, full, 0x1p-8);
  EXPECT_NE(half, full);
}

TEST(Trainer, TrainsAUNetInMixedPrecisionOnADevice) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  const at::Device device(at::kCUDA, 0);
  const std::vector<double> full = losses_of(MixedPrecision::kNo, at::kCPU);
  expect_near_relative(losses_of(MixedPrecision::kNo, device), full, 1e-3);  // convolutions in TF32
  expect_near_relative(losses_of(MixedPrecision::kBf16, device), full, 0x1p-7);
  expect_near_relative(losses_of(MixedPrecision::kFp16, device), full, 0x1p-7);
}

}  // namespace
}  // namespace diffusers
