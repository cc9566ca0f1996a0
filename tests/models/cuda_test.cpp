// Models on a CUDA device, with this library's kernels and in channels-last order.

#include <vector>

#include <diffusers/models/denoiser.h>
#include <diffusers/models/embeddings.h>
#include <diffusers/models/unet_2d.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include "models/unet/row_parts.h"
#include "support/golden.h"
#include "support/on_cuda.h"

namespace diffusers {
namespace {

using test::CudaOptionsScope;
using test::exact_options;

UNet2DModel device_unet() {
  torch::manual_seed(4);
  UNet2DModel unet({.sample_size = 16,
                    .in_channels = 2,
                    .out_channels = 2,
                    .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                    .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                    .block_out_channels = {32, 64},
                    .layers_per_block = 1,
                    .norm_num_groups = 8});
  unet->to(at::kCUDA);
  return unet;
}

/// The output, and the gradients of all parameters.
std::vector<Tensor> forward_and_backward(UNet2DModel& unet, const Tensor& sample) {
  unet->zero_grad();
  const Tensor output = unet->forward(sample, at::tensor({10, 700}).to(at::kCUDA)).sample;
  (output * at::linspace(-1, 1, output.numel(), output.options()).view(output.sizes())).sum().backward();
  std::vector<Tensor> results{output.detach().cpu()};
  for (const Tensor& parameter : unet->parameters())
    if (parameter.grad().defined()) results.push_back(parameter.grad().cpu());
  return results;
}

TEST(OnCuda, ModelWithKernelsMatchesLibTorchInBothLayouts) {
  DIFFUSERS_SKIP_WITHOUT_CUDA();
  UNet2DModel unet = device_unet();
  const Tensor sample = at::linspace(-1, 1, 2 * 2 * 256).mul(40).sin().view({2, 2, 16, 16}).to(at::kCUDA);
  const auto run = [&](bool kernels, at::MemoryFormat order) {
    const CudaOptionsScope scope(exact_options(kernels));
    return forward_and_backward(unet, sample.contiguous(order));
  };
  const auto expected = run(false, at::MemoryFormat::Contiguous);
  for (const at::MemoryFormat order : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
    const auto actual = run(true, order);
    ASSERT_EQ(actual.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i)
      test::expect_close(actual[i], expected[i], 1e-3, 1e-4 * expected[i].abs().max().item<double>() + 1e-6);
  }
}

TEST(OnCuda, TimestepEmbeddingMatchesLibTorch) {
  DIFFUSERS_SKIP_WITHOUT_CUDA();
  const Tensor timesteps = at::arange(0, 1000, 37).to(at::kCUDA);
  for (const int64_t dim : {32, 33, 320})
    for (const bool flip : {false, true}) {
      const auto run = [&](bool kernels) {
        const CudaOptionsScope scope(exact_options(kernels));
        return get_timestep_embedding(timesteps, dim, flip, flip ? 0.0 : 1.0);
      };
      // Angles of up to 1,000 have a rounding error of 6e-5.
      test::expect_close(run(true), run(false), 0, 2e-4);
    }
}

TEST(OnCuda, ReplayedSamplingStepMatches) {
  DIFFUSERS_SKIP_WITHOUT_CUDA();
  UNet2DModel unet = device_unet();
  unet->eval();
  const Denoiser plain = make_denoiser(unet);
  CudaOptions options = exact_options(false);
  options.graphs = true;
  const CudaOptionsScope scope(options);
  const Denoiser captured = in_automatic_parts(plain, *unet);
  const at::NoGradGuard no_grad;
  for (int64_t step = 0; step < 6; ++step) {
    const Tensor sample = at::randn({2, 2, 16, 16}).to(at::kCUDA);
    const Tensor t = at::full({}, 100 * step, at::kLong).to(at::kCUDA);
    test::expect_close(captured(sample, t, {}), plain(sample, t, {}), 1e-5, 1e-5);
  }
}

}  // namespace
}  // namespace diffusers
