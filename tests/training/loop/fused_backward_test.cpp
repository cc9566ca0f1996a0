// Updates within the backward pass: the same results as plain steps, and no gradients that are held.

#include "training/loop/fused_backward.h"

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/gradient_clipping.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/nn/modules/linear.h>

#include "support/allocation_counter.h"
#include "support/golden.h"
#include "training/quick_training.h"
#include "training/resumable_training.h"

namespace diffusers {
namespace {

using test::AllocationCounter;
using test::copies;
using test::expect_equal;
using test::expect_same_checkpoint;
using test::expect_throws_with;
using test::LogCapture;
using test::quiet_config;
using test::seeded_net;
using test::TemporaryFolder;
using test::TinyImages;
using test::TinyNet;
using test::train_until;

/// A config of `resumable_config` that a fused backward pass can serve.
TrainingConfig fusable_config(const std::string& output_dir, bool is_fused) {
  TrainingConfig config = test::resumable_config(output_dir);
  config.gradient_accumulation_steps = 1;
  config.max_grad_norm = 0;
  config.fused_backward_pass = is_fused;
  return config;
}

TEST(FusedBackwardPass, GivesTheBitsOfPlainSteps) {
  struct Case {
    OptimizerType optimizer;
    MixedPrecision precision = MixedPrecision::kNo;
  };
  for (const Case& one : {Case{OptimizerType::kAdamW}, Case{OptimizerType::kAdam}, Case{OptimizerType::kSGD},
                          Case{OptimizerType::kLion}, Case{OptimizerType::kAdafactor},
                          Case{OptimizerType::kAdamW, MixedPrecision::kBf16}}) {
    SCOPED_TRACE(static_cast<int>(one.optimizer));
    const LogCapture log;
    std::vector<std::unique_ptr<TemporaryFolder>> folders;
    for (const bool is_fused : {false, true}) {
      folders.push_back(std::make_unique<TemporaryFolder>());
      TrainingConfig config = fusable_config(folders.back()->path(), is_fused);
      config.optimizer = one.optimizer;
      config.mixed_precision = one.precision;
      config.adam_weight_decay = 0.01;
      config.lr_factors = {{"*.bias", 0.5}};
      config.logging_steps = 1;
      if (one.optimizer == OptimizerType::kSGD) config.sgd_momentum = 0.9;
      EXPECT_TRUE(train_until(config, -1).is_complete);
    }
    expect_same_checkpoint(*folders[1] / "checkpoint-9", *folders[0] / "checkpoint-9");
    const MetricsLog plain(folders[0]->path(), 100);
    const MetricsLog fused(folders[1]->path(), 100);
    EXPECT_EQ(fused.losses(), plain.losses());
    ASSERT_EQ(fused.rows().size(), plain.rows().size());
    for (std::size_t i = 0; i < plain.rows().size(); ++i) {
      EXPECT_EQ(fused.rows()[i].grad_norm, plain.rows()[i].grad_norm);
      EXPECT_EQ(fused.rows()[i].lr, plain.rows()[i].lr);
    }
  }
}

/// A parameter in float64 shows more of a result's bits.
TEST(FusedBackwardPass, GivesTheBitsOfPlainStepsInFloat64) {
  for (const OptimizerType optimizer : {OptimizerType::kAdamW, OptimizerType::kAdafactor}) {
    std::vector<std::vector<Tensor>> results;
    for (const bool is_fused : {false, true}) {
      const TemporaryFolder folder;
      TinyNet model = seeded_net();
      model->to(at::kDouble);
      TrainingConfig config = quiet_config(folder.path());
      config.optimizer = optimizer;
      config.max_grad_norm = 0;
      config.fused_backward_pass = is_fused;
      Trainer(model, DDPMScheduler(), config).train(TinyImages(20));
      results.push_back(copies(model->parameters()));
    }
    for (std::size_t i = 0; i < results[0].size(); ++i) expect_equal(results[1][i], results[0][i]);
  }
}

TEST(FusedBackwardPass, ServesGradientCheckpointing) {
  std::vector<std::vector<Tensor>> results;
  for (const bool is_fused : {false, true}) {
    const TemporaryFolder folder;
    manual_seed(2);
    const UNet2DModel model({.sample_size = 6,
                             .in_channels = 1,
                             .out_channels = 1,
                             .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                             .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                             .block_out_channels = {4, 8},
                             .layers_per_block = 1,
                             .norm_num_groups = 2});
    TrainingConfig config = quiet_config(folder.path());
    config.gradient_checkpointing = true;
    config.max_grad_norm = 0;
    config.fused_backward_pass = is_fused;
    Trainer(model, DDPMScheduler(), config, {.class_conditional = false}).train(TinyImages(12));
    results.push_back(copies(model->parameters()));
  }
  for (std::size_t i = 0; i < results[0].size(); ++i) expect_equal(results[1][i], results[0][i]);
}

TEST(FusedBackwardPass, ResumesBitForBitAndFromAPlainTraining) {
  const TemporaryFolder whole;
  EXPECT_TRUE(train_until(fusable_config(whole.path(), true), -1).is_complete);
  for (const bool was_fused : {true, false}) {
    const TemporaryFolder folder;
    train_until(fusable_config(folder.path(), was_fused), 4);
    TrainingConfig config = fusable_config(folder.path(), true);
    config.resume_from_checkpoint = "latest";
    EXPECT_TRUE(train_until(config, -1).is_complete);
    expect_same_checkpoint(folder / "checkpoint-9", whole / "checkpoint-9");
  }
}

/// Many parameters and few activations: the gradients are most of a step's memory.
struct WideNetImpl : torch::nn::Module {
  static constexpr int64_t kWidth = 512;
  static constexpr int kLayers = 6;

  WideNetImpl() : torch::nn::Module("WideNet") {
    first = register_module("first", torch::nn::Linear(36, kWidth));
    for (int i = 0; i < kLayers; ++i)
      layers.push_back(register_module("layer" + std::to_string(i), torch::nn::Linear(kWidth, kWidth)));
    last = register_module("last", torch::nn::Linear(kWidth, 36));
  }
  Tensor forward(const Tensor& sample, const Tensor&) {
    Tensor hidden = first(sample.flatten(1));
    for (torch::nn::Linear& layer : layers) hidden = at::relu(layer(hidden));
    return last(hidden).view_as(sample);
  }
  torch::nn::Linear first{nullptr}, last{nullptr};
  std::vector<torch::nn::Linear> layers;
};
TORCH_MODULE(WideNet);

/// Returns the peak of a step's memory above the memory between two steps, in bytes.
int64_t memory_of_a_step(OptimizerType optimizer, bool is_fused) {
  AllocationCounter counter;
  const TemporaryFolder folder;
  manual_seed(1);
  WideNet model;
  TrainingConfig config = quiet_config(folder.path());
  config.optimizer = optimizer;
  config.max_train_steps = 4;
  config.logging_steps = 100;
  config.max_grad_norm = 0;
  config.fused_backward_pass = is_fused;
  config.tensorboard = config.report = false;
  Trainer trainer(model, DDPMScheduler(), config);
  int64_t before = 0;
  int64_t memory = 0;
  trainer.on_step([&](int64_t step) {
    if (step == 2) {
      counter.restart_peak();
      before = counter.live();
    }
    if (step == 3) memory = counter.peak() - before;
  });
  trainer.train(TinyImages(20));
  return memory;
}

TEST(FusedBackwardPass, HoldsTheGradientOfOneLayer) {
  constexpr int64_t kLayerBytes = WideNetImpl::kWidth * WideNetImpl::kWidth * 4;
  for (const OptimizerType optimizer : {OptimizerType::kAdamW, OptimizerType::kSGD}) {
    EXPECT_GT(memory_of_a_step(optimizer, false), WideNetImpl::kLayers * kLayerBytes);
    // A gradient is complete while the gradient of the layer before it is computed.
    EXPECT_LT(memory_of_a_step(optimizer, true), 5 * kLayerBytes / 2);
  }
}

TEST(FusedBackwardPass, LeavesNoGradientsAndNoHooks) {
  const TemporaryFolder folder;
  TinyNet model = seeded_net();
  TrainingConfig config = quiet_config(folder.path());
  config.max_grad_norm = 0;
  config.fused_backward_pass = true;
  Trainer trainer(model, DDPMScheduler(), config);
  trainer.on_step([&](int64_t) {
    for (const Tensor& parameter : model->parameters()) EXPECT_FALSE(parameter.grad().defined());
  });
  trainer.train(TinyImages(8));
  for (const Tensor& parameter : model->parameters())
    EXPECT_FALSE(static_cast<bool>(torch::autograd::impl::post_acc_grad_hooks(parameter)));
  model->forward(at::zeros({1, 1, 6, 6}), at::zeros({1})).sum().backward();
  for (const Tensor& parameter : model->parameters()) EXPECT_TRUE(parameter.grad().defined());
}

/// Counts its calls.
struct CountingHook : torch::autograd::PostAccumulateGradHook {
  explicit CountingHook(int& count) : count(count) {}
  void operator()(const Tensor& parameter) override { count += parameter.grad().defined() ? 1 : 100; }
  int& count;
};

TEST(FusedBackwardPass, KeepsTheHooksOfTheProgram) {
  int count = 0;
  const Tensor weight = at::ones({2}).requires_grad_();
  torch::autograd::impl::set_post_acc_grad_hooks(weight, std::make_unique<CountingHook>(count));
  {
    const FusedBackward fused({weight}, at::zeros({}), [](const Tensor&, const Tensor&) {});
    (weight * 2).sum().backward();
    EXPECT_EQ(count, 1);
    EXPECT_FALSE(weight.grad().defined());
  }
  weight.sum().backward();
  EXPECT_EQ(count, 2);
  EXPECT_TRUE(weight.grad().defined());
}

TEST(FusedBackwardPass, RefusesASecondGradientInAStep) {
  const Tensor weight = at::ones({2}).requires_grad_();
  const FusedBackward fused({weight}, at::zeros({}), [](const Tensor&, const Tensor&) {});
  weight.sum().backward();
  expect_throws_with<ConfigError>(
      [&] { weight.sum().backward(); },
      "the gradient of a parameter float32 [2] on cpu is completed twice in a step");
}

TEST(FusedBackwardPass, SkipsTheParametersFromTheFirstNonFiniteGradientOn) {
  const Tensor first = at::ones({2}).requires_grad_();
  const Tensor second = at::ones({2}).requires_grad_();
  std::vector<double> skipped;
  const FusedBackward fused({first, second}, at::zeros({}), [&](const Tensor&, const Tensor& found_inf) {
    skipped.push_back(found_inf.item<double>());
  });
  // The gradient of `second` is finite and comes first; that of `first` is infinite.
  ((first - 1).sqrt() * 1).mul(second).sum().backward();
  EXPECT_EQ(skipped, (std::vector<double>{0, 1}));
  EXPECT_EQ(fused.is_nonfinite().item<double>(), 1);
  EXPECT_FALSE(std::isfinite(fused.norms()[0].item<double>()));
  EXPECT_TRUE(std::isfinite(fused.norms()[1].item<double>()));
}

TEST(FusedBackwardPass, HasTheNormOfGetTotalGradNorm) {
  manual_seed(3);
  const Tensor a = at::randn({5, 7}).requires_grad_();
  const Tensor b = at::randn({4}, at::kDouble).requires_grad_();
  const Tensor c = at::randn({3}).requires_grad_();  // without a gradient
  const std::vector<Tensor> parameters{a, b, c};
  const auto backward = [&] { (a.square().sum() + b.pow(3).sum()).backward(); };
  backward();
  const Tensor expected = get_total_grad_norm(parameters);
  for (const Tensor& parameter : parameters) parameter.mutable_grad().reset();
  const FusedBackward fused(parameters, at::zeros({}), [](const Tensor&, const Tensor&) {});
  backward();
  expect_equal(fused.total_norm(), expected);
  EXPECT_FALSE(fused.norms()[2].defined());
  const FusedBackward none({}, at::zeros({}), [](const Tensor&, const Tensor&) {});
  EXPECT_EQ(none.total_norm().item<double>(), 0);
}

/// The output's bias gets an infinite gradient in some steps. It is the first one of the backward pass.
TEST(FusedBackwardPass, CountsAndSkipsStepsThatAreNotFinite) {
  std::vector<std::vector<Tensor>> results;
  for (const bool is_fused : {false, true}) {
    const LogCapture log;
    const TemporaryFolder folder;
    const TinyNet model = seeded_net();
    TrainingConfig config = quiet_config(folder.path());
    config.lr_scheduler = "linear";
    config.max_train_steps = 6;
    config.max_grad_norm = 0;
    config.fused_backward_pass = is_fused;
    TinyImages images(24);
    images.images()[3].fill_(std::numeric_limits<float>::quiet_NaN());  // the loss of its batch is NaN
    const TrainingResult result = Trainer(model, DDPMScheduler(), config).train(images);
    EXPECT_EQ(result.skipped_steps, 1);
    EXPECT_TRUE(log.contains("the images of the batch"));
    results.push_back(copies(model->parameters()));
  }
  for (std::size_t i = 0; i < results[0].size(); ++i) expect_equal(results[1][i], results[0][i]);
}

TEST(FusedBackwardPass, NamesTheParameterWhoseGradientIsNotFinite) {
  const LogCapture log;
  const TemporaryFolder folder;
  const TinyNet model = seeded_net();
  const std::vector<Tensor> before = copies(model->parameters());
  model->time->bias.register_hook(
      [](const Tensor& grad) { return grad * std::numeric_limits<float>::infinity(); });
  TrainingConfig config = quiet_config(folder.path());
  config.max_grad_norm = 0;
  config.fused_backward_pass = true;
  config.max_nonfinite_steps = 2;
  expect_throws_with<Error>([&] { Trainer(model, DDPMScheduler(), config).train(TinyImages(20)); },
                            "first in the gradient of time.bias");
  for (const Tensor& parameter : model->parameters()) EXPECT_TRUE(parameter.isfinite().all().item<bool>());
  expect_equal(model->time->bias.detach(), before[3]);
}

TEST(FusedBackwardPass, RefusesTheOptionsThatItCannotServe) {
  const auto refuse = [](void (*change)(TrainingConfig&), const char* message) {
    TrainingConfig config = quiet_config("unused");
    config.max_grad_norm = 0;
    config.fused_backward_pass = true;
    change(config);
    expect_throws_with<ConfigError>([&] { Trainer(TinyNet(), DDPMScheduler(), config); }, message);
  };
  refuse(
      [](TrainingConfig& c) { c.max_grad_norm = 0.5; },
      "fused_backward_pass is true and max_grad_norm is 0.5: each parameter is updated before the norm over "
      "all gradients is known. Set max_grad_norm to 0 or fused_backward_pass to false");
  refuse([](TrainingConfig& c) { c.gradient_accumulation_steps = 4; },
         "fused_backward_pass is true and gradient_accumulation_steps is 4");
  refuse([](TrainingConfig& c) { c.mixed_precision = "fp16"; },
         "fused_backward_pass is true and mixed_precision is \"fp16\"");
  refuse([](TrainingConfig& c) { c.cpu_data_parallel = 2; },
         "fused_backward_pass is true and cpu_data_parallel is 2");
  const std::vector<Update> two{{.name = "generator"}, {.name = "discriminator"}};
  expect_throws_with<ConfigError>(
      [&] { require_fused_backward(two, {.fused_backward_pass = true, .max_grad_norm = 0}); },
      "fused_backward_pass is true, but the task has the updates \"generator\", \"discriminator\"; it needs "
      "one "
      "update with one optimizer");
  expect_throws_with<ConfigError>(
      [&] {
        require_fused_backward({{.name = "own", .max_grad_norm = 2.0}},
                               {.fused_backward_pass = true, .max_grad_norm = 0});
      },
      "max_grad_norm is 2");
  require_fused_backward(two, {});
}

}  // namespace
}  // namespace diffusers
