// Pipelines on a CUDA device.

#include <diffusers/core/random.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/ddim_pipeline.h>
#include <diffusers/pipelines/ddpm_pipeline.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/utils.h>

#include "pipelines/small_unet.h"
#include "support/golden.h"
#include "support/on_cuda.h"

namespace diffusers {
namespace {

using test::CudaOptionsScope;
using test::exact_options;

/// Draws images with noise from a generator on the host.
template <class Pipeline, class PipelineScheduler>
Tensor drawn_on(at::Device device, const CudaOptions& options) {
  const CudaOptionsScope scope(options);
  torch::manual_seed(1);
  const UNet2DModel unet(test::small_unet_config());
  Pipeline pipeline(unet, PipelineScheduler());
  pipeline.to(device);
  const Tensor images =
      pipeline({.batch_size = 3, .generator = make_generator(7), .num_inference_steps = 8}).images;
  EXPECT_EQ(images.device().type(), device.type());
  return images.cpu();
}

template <class Pipeline, class PipelineScheduler>
void expect_same_images() {
  const Tensor expected = drawn_on<Pipeline, PipelineScheduler>(at::kCPU, exact_options(false));
  for (const bool kernels : {false, true})
    for (const bool graphs : {false, true}) {
      CudaOptions options = exact_options(kernels);
      options.graphs = graphs;
      const Tensor images = drawn_on<Pipeline, PipelineScheduler>(at::Device(at::kCUDA, 0), options);
      test::expect_close(images, expected, 1e-3, 1e-3);
    }
}

TEST(OnCuda, DDPMPipelineDrawsTheImagesOfTheCpu) {
  DIFFUSERS_SKIP_WITHOUT_CUDA();
  expect_same_images<DDPMPipeline, DDPMScheduler>();
}

TEST(OnCuda, DDIMPipelineDrawsTheImagesOfTheCpu) {
  DIFFUSERS_SKIP_WITHOUT_CUDA();
  expect_same_images<DDIMPipeline, DDIMScheduler>();
}

}  // namespace
}  // namespace diffusers
