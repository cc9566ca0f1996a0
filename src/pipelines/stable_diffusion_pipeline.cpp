#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "models/unet/row_parts.h"
#include "pipelines/stable_diffusion.h"

namespace diffusers {
namespace {

/// Returns `{height, width}` of the images.
std::pair<int64_t, int64_t> image_size(const StableDiffusionCall& call,
                                       const StableDiffusionPipelineOptions& options) {
  int64_t height = options.height.value_or(0);
  int64_t width = options.width.value_or(0);
  if (height == 0 || width == 0) {
    if (height != width)
      warn_once(
          "StableDiffusionPipeline: height and width have to be given together; the UNet's size is taken");
    height = width = 0;
  }
  return call.image_size(height, width, /*multiple=*/8);
}

/// Shape of the latents. Given latents say how large the images are, unless the options do.
std::vector<int64_t> latents_shape(const StableDiffusionCall& call,
                                   const StableDiffusionPipelineOptions& options, int64_t batch_size,
                                   const std::pair<int64_t, int64_t>& size) {
  const int64_t scale = call.vae_scale_factor();
  std::vector<int64_t> shape = {batch_size, call.unet()->config().in_channels, size.first / scale,
                                size.second / scale};
  const bool is_sized = options.height.value_or(0) != 0 && options.width.value_or(0) != 0;
  if (options.latents.defined() && options.latents.dim() == 4 && !is_sized) {
    shape[2] = options.latents.size(2);
    shape[3] = options.latents.size(3);
  }
  return shape;
}

}  // namespace

const PipelineSpec& StableDiffusionPipeline::spec() {
  static const PipelineSpec spec = spec_of("StableDiffusionPipeline");
  return spec;
}

StableDiffusionPipeline::StableDiffusionPipeline(const AutoencoderKL& vae, const CLIPTextModel& text_encoder,
                                                 const CLIPTokenizer& tokenizer,
                                                 const UNet2DConditionModel& unet, const Scheduler& scheduler)
    : StableDiffusionPipeline(components_of(vae, text_encoder, tokenizer, unet, scheduler)) {}

StableDiffusionPipeline::StableDiffusionPipeline(PipelineComponents components)
    : TypedPipeline(std::move(components)) {}

ImagePipelineOutput StableDiffusionPipeline::operator()(const StableDiffusionPipelineOptions& options) {
  const StableDiffusionCall call(*this);
  const std::pair<int64_t, int64_t> size = image_size(call, options);
  const EncodedPrompt prompt = call.encode_prompt(guided_prompt(options));
  const int64_t steps = call.set_timesteps(options.num_inference_steps, options.timesteps, options.sigmas);
  const Tensor noise =
      call.noise(options.latents, latents_shape(call, options, prompt.batch_size, size), options.generator);
  const Tensor latents =
      call.denoise(in_automatic_parts(make_denoiser(call.unet()), *call.unet()), prompt,
                   noise * scheduler().init_noise_sigma(), /*start=*/0, steps, denoising_options(options));
  return call.decode(latents, options.output_type);
}

}  // namespace diffusers
