#include <string>
#include <utility>
#include <vector>

#include <diffusers/models/gradient_checkpointing.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/types.h>

#include "models/unet/unet_2d_golden.h"
#include "support/allocation_counter.h"
#include "support/golden.h"

namespace diffusers::test {
namespace {

struct Result {
  Tensor output;
  Tensor sample_grad;
  std::vector<Tensor> grads;
  Tensor next_random;
};

Result train_step(UNet2DModel& model, bool checkpointing, bool autocast) {
  checkpointing ? model->enable_gradient_checkpointing() : model->disable_gradient_checkpointing();
  model->zero_grad();
  torch::manual_seed(1);
  auto sample = torch::randn({2, model->config().in_channels, 8, 8}).requires_grad_(true);
  at::autocast::set_autocast_enabled(at::kCPU, autocast);
  auto output = model->forward(sample, torch::tensor({3, 30})).sample;
  auto loss = output.to(torch::kFloat32).square().mean();
  loss.backward();
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  Result result{output.detach().clone(), sample.grad().clone(), {}, torch::rand({2})};
  for (const auto& parameter : model->parameters())
    result.grads.push_back(parameter.grad().defined() ? parameter.grad().clone() : Tensor());
  return result;
}

void expect_same_step(const std::string& name, bool autocast) {
  SCOPED_TRACE(name);
  auto model = make_case(name);
  perturb(model);
  model->train();
  const auto plain = train_step(model, false, autocast);
  const auto checkpointed = train_step(model, true, autocast);
  expect_equal(checkpointed.output, plain.output, "output");
  // Gradients are accumulated in another order, which under autocast rounds to the 8 bits of bfloat16.
  const double tolerance = autocast ? 2e-2 : 1e-5;
  const auto compare = [&](const Tensor& a, const Tensor& b, const std::string& label) {
    expect_close(a, b, tolerance, tolerance * b.abs().max().item<double>(), label);
  };
  compare(checkpointed.sample_grad, plain.sample_grad, "gradient of the sample");
  expect_equal(checkpointed.next_random, plain.next_random, "random numbers after the backward");
  ASSERT_EQ(checkpointed.grads.size(), plain.grads.size());
  const auto parameters = model->named_parameters();
  for (std::size_t i = 0; i < plain.grads.size(); ++i) {
    ASSERT_EQ(checkpointed.grads[i].defined(), plain.grads[i].defined()) << i;
    if (!plain.grads[i].defined()) continue;
    const auto& label = parameters[i].key();
    if (!is_key_bias(label, parameters)) {
      compare(checkpointed.grads[i], plain.grads[i], label);
      continue;
    }
    const double scale = weight_of_key_bias(label, parameters).grad().abs().max().item<double>();
    expect_close(checkpointed.grads[i], plain.grads[i], 0, tolerance * scale, label);
  }
}

TEST(GradientCheckpointing, GivesTheSameValuesAndGradients) {
  for (const std::string name :
       {"plain", "resnet_resampling", "skip", "attention_skip", "k_blocks", "scale_shift"})
    expect_same_step(name, /*autocast=*/false);
}

TEST(GradientCheckpointing, DrawsTheSameDropout) {
  expect_same_step("dropout_in_training", /*autocast=*/false);
}

TEST(GradientCheckpointing, WorksUnderAutocast) { expect_same_step("plain", /*autocast=*/true); }

TEST(GradientCheckpointing, WorksWithGradOfChosenTensors) {
  auto model = make_case("plain");
  model->enable_gradient_checkpointing();
  const auto sample = torch::randn({2, 1, 8, 8});
  const auto weight = model->named_parameters()["down_blocks.0.resnets.0.conv1.weight"];
  const auto with = torch::autograd::grad({model->forward(sample, 3).sample.sum()}, {weight})[0];
  model->disable_gradient_checkpointing();
  const auto without = torch::autograd::grad({model->forward(sample, 3).sample.sum()}, {weight})[0];
  expect_close(with, without, 1e-5, 1e-6);
}

TEST(GradientCheckpointing, RefusesGradientsOfGradients) {
  auto model = make_case("plain");
  model->enable_gradient_checkpointing();
  const auto sample = torch::randn({1, 1, 8, 8}).requires_grad_(true);
  const auto output = model->forward(sample, 3).sample.sum();
  EXPECT_THROW(torch::autograd::grad({output}, {sample}, {}, true, /*create_graph=*/true), std::exception);
}

TEST(GradientCheckpointing, HalvesTheMemoryOfActivations) {
  // The blocks of Stable Diffusion 1.5 with an eighth of the channels.
  torch::manual_seed(0);
  AllocationCounter counter;
  UNet2DConditionModel unet({.sample_size = 32,
                             .block_out_channels = {40, 80, 160, 160},
                             .norm_num_groups = 8,
                             .cross_attention_dim = 96});
  unet->train();
  for (const auto& parameter : unet->parameters()) parameter.mutable_grad() = torch::zeros_like(parameter);
  const Tensor sample = torch::randn({1, 4, 32, 32});
  const Tensor context = torch::randn({1, 77, 96});
  const auto measure = [&] {
    return measure_activations(counter,
                               [&] { return unet->forward(sample, 500, context).sample.square().mean(); });
  };
  const ActivationMemory plain = measure();
  unet->enable_gradient_checkpointing();
  const ActivationMemory checkpointed = measure();
  EXPECT_LE(2 * checkpointed.held, plain.held);
  EXPECT_LE(2 * checkpointed.peak, plain.peak);
  EXPECT_EQ(plain.left, 0);
  EXPECT_EQ(checkpointed.left, 0);
}

}  // namespace
}  // namespace diffusers::test
