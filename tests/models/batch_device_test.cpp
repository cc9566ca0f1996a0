// Models with empty batches, on a device, and under autocast.

#include <string>
#include <utility>
#include <vector>

#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/models/vq_model.h>

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/utils.h>

#include "support/golden.h"

namespace diffusers::test {
namespace {

UNet2DModel unet_with_attention() {
  torch::manual_seed(1);
  return UNet2DModel({.sample_size = 8,
                      .in_channels = 2,
                      .out_channels = 2,
                      .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                      .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                      .block_out_channels = {16, 32},
                      .layers_per_block = 1,
                      .norm_num_groups = 4});
}

UNet2DConditionModel unet_with_cross_attention() {
  torch::manual_seed(1);
  return UNet2DConditionModel({.in_channels = 2,
                               .out_channels = 2,
                               .down_block_types = {"CrossAttnDownBlock2D", "DownBlock2D"},
                               .up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D"},
                               .block_out_channels = {16, 32},
                               .layers_per_block = 1,
                               .norm_num_groups = 4,
                               .cross_attention_dim = 12,
                               .attention_head_dim = 8});
}

TEST(EmptyBatch, GivesAnEmptyOutput) {
  const std::vector<int64_t> shape{0, 2, 8, 8};
  for (const bool with_grad : {false, true}) {
    const at::AutoGradMode grad_mode(with_grad);
    const Tensor sample = torch::zeros(shape);
    const Tensor unet = unet_with_attention()->forward(sample, torch::zeros({0})).sample;
    EXPECT_EQ(unet.sizes(), at::IntArrayRef(shape));
    const Tensor conditional =
        unet_with_cross_attention()->forward(sample, torch::zeros({0}), torch::zeros({0, 3, 12})).sample;
    EXPECT_EQ(conditional.sizes(), at::IntArrayRef(shape));
    const AutoencoderKL vae({.in_channels = 2,
                             .out_channels = 2,
                             .block_out_channels = {8},
                             .latent_channels = 2,
                             .norm_num_groups = 4});
    EXPECT_EQ(vae->forward(sample).sample.sizes(), at::IntArrayRef(shape));
    const VQModel vq({.in_channels = 2,
                      .out_channels = 2,
                      .block_out_channels = {8},
                      .latent_channels = 2,
                      .num_vq_embeddings = 16,
                      .norm_num_groups = 4});
    EXPECT_EQ(vq->forward(sample).sample.sizes(), at::IntArrayRef(shape));
    if (!with_grad) continue;
    // The gradient for an empty batch is zero.
    UNet2DModel trained = unet_with_attention();
    trained->forward(sample, torch::zeros({0})).sample.sum().backward();
    for (const Tensor& parameter : trained->parameters()) {
      if (!parameter.grad().defined()) continue;
      EXPECT_EQ(parameter.grad().abs().sum().item<double>(), 0.0);
    }
  }
}

struct Computed {
  Tensor output;
  Tensor gradients;  // gradients of all parameters, concatenated
};

template <class Model, class Forward>
Computed compute(Model model, at::Device device, bool bfloat16, Forward forward) {
  model->to(device);
  Tensor output;
  {
    at::autocast::set_autocast_dtype(device.type(), at::kBFloat16);
    at::autocast::set_autocast_enabled(device.type(), bfloat16);
    output = forward(model);
    at::autocast::set_autocast_enabled(device.type(), false);
    at::autocast::clear_cache();
  }
  (output.to(at::kFloat) * torch::linspace(-1, 1, output.numel(), output.device()).view_as(output))
      .sum()
      .backward();
  std::vector<Tensor> gradients;
  for (const Tensor& parameter : model->parameters())
    if (parameter.grad().defined()) gradients.push_back(parameter.grad().flatten().cpu().to(at::kFloat));
  return {output.detach().cpu().to(at::kFloat), torch::cat(gradients)};
}

double relative_error(const Tensor& actual, const Tensor& expected) {
  return ((actual - expected).norm() / expected.norm()).item<double>();
}

/// Returns the outputs and the gradients of both UNets.
std::vector<Computed> compute_unets(at::Device device, bool bfloat16) {
  const Tensor sample = torch::linspace(-1, 1, 2 * 2 * 64).mul(40).sin().view({2, 2, 8, 8}).to(device);
  const Tensor timesteps = torch::tensor({10, 700}).to(device);
  const Tensor text = torch::linspace(-1, 1, 2 * 3 * 12).mul(50).cos().view({2, 3, 12}).to(device);
  return {compute(unet_with_attention(), device, bfloat16,
                  [&](auto& model) { return model->forward(sample, timesteps).sample; }),
          compute(unet_with_cross_attention(), device, bfloat16,
                  [&](auto& model) { return model->forward(sample, timesteps, text).sample; })};
}

TEST(Autocast, InBfloat16AgreesWithFloat32WithinRounding) {
  const std::vector<Computed> full = compute_unets(at::kCPU, false);
  const std::vector<Computed> half = compute_unets(at::kCPU, true);
  for (std::size_t i = 0; i < full.size(); ++i) {
    // bfloat16 rounds to 1 part in 256, and the rounding errors of a dozen layers add up.
    const double output_error = relative_error(half[i].output, full[i].output);
    const double gradient_error = relative_error(half[i].gradients, full[i].gradients);
    EXPECT_LT(output_error, 0.02) << i;
    EXPECT_LT(gradient_error, 0.02) << i;
    EXPECT_GT(output_error, 1e-4) << "it was computed in float32";
    RecordProperty("output_error_" + std::to_string(i), std::to_string(output_error));
    RecordProperty("gradient_error_" + std::to_string(i), std::to_string(gradient_error));
  }
}

TEST(Device, GivesTheOutputAndTheGradientsOfTheCPU) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA device";
  const bool before = at::globalContext().allowTF32CuDNN();
  at::globalContext().setAllowTF32CuDNN(false);
  const std::vector<Computed> host = compute_unets(at::kCPU, false);
  const std::vector<Computed> device = compute_unets(at::Device(at::kCUDA, 0), false);
  at::globalContext().setAllowTF32CuDNN(before);
  for (std::size_t i = 0; i < host.size(); ++i) {
    expect_close(device[i].output, host[i].output, 1e-4, 1e-5);
    EXPECT_LT(relative_error(device[i].gradients, host[i].gradients), 1e-4) << i;
  }
}

}  // namespace
}  // namespace diffusers::test
