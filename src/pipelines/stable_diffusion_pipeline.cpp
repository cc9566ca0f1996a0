#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>
#include <diffusers/core/random.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "pipelines/stable_diffusion.h"

namespace diffusers {
namespace {

/// Returns `{height, width}` of the images.
std::pair<int64_t, int64_t> image_size(const StableDiffusionCall& call,
                                       const StableDiffusionPipelineOptions& options) {
  const int64_t scale = call.vae_scale_factor();
  int64_t height = options.height.value_or(0);
  int64_t width = options.width.value_or(0);
  if (height == 0 || width == 0) {
    if (height != width)
      warn_once(
          "StableDiffusionPipeline: height and width have to be given together; the UNet's size is taken");
    const std::vector<int64_t> size = call.unet()->config().sample_size.expand(2);
    require<ConfigError>(
        size.size() == 2 && size[0] > 0 && size[1] > 0,
        "StableDiffusionPipeline: the UNet's sample_size is [{}], expected one or two positive "
        "numbers where height and width are not given",
        fmt::join(size, ", "));
    height = size[0] * scale;
    width = size[1] * scale;
  }
  require<ConfigError>(height > 0 && width > 0 && height % 8 == 0 && width % 8 == 0,
                       "height and width are {} and {}, expected positive multiples of 8", height, width);
  require<ConfigError>(height % scale == 0 && width % scale == 0,
                       "height and width are {} and {}, expected multiples of {}, the vae's scale", height,
                       width, scale);
  return {height, width};
}

/// Returns x_T: the latents of the options or new noise, scaled by the scheduler's init_noise_sigma.
Tensor starting_latents(const StableDiffusionCall& call, const StableDiffusionPipelineOptions& options,
                        int64_t batch_size, int64_t height, int64_t width) {
  const at::TensorOptions tensor_options = call.tensor_options();
  const int64_t scale = call.vae_scale_factor();
  const std::vector<int64_t> shape = {batch_size, call.unet()->config().in_channels, height / scale,
                                      width / scale};
  Tensor latents = options.latents;
  if (latents.defined()) {
    // If the options do not give the size of the images, given latents determine it.
    const bool is_sized = options.height.value_or(0) != 0 && options.width.value_or(0) != 0;
    require<TensorError>(latents.dim() == 4 && latents.size(0) == shape[0] && latents.size(1) == shape[1] &&
                             (!is_sized || latents.sizes() == shape),
                         "latents is {}, expected {}", describe(latents), shape_string(shape));
    latents = latents.to(tensor_options);
  } else {
    latents = randn_tensor(shape, options.generator, tensor_options.device(),
                           c10::typeMetaToScalarType(tensor_options.dtype()));
  }
  return latents * call.scheduler().init_noise_sigma();
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
  const auto [height, width] = image_size(call, options);
  const EncodedPrompt prompt = call.encode_prompt(guided_prompt(options));
  const int64_t steps = call.set_timesteps(options.num_inference_steps, options.timesteps, options.sigmas);
  const Tensor noise = starting_latents(call, options, prompt.batch_size, height, width);
  const Tensor latents = call.denoise(make_denoiser(call.unet()), prompt, noise, /*start=*/0, steps,
                                      {options.guidance_scale, options.guidance_rescale, options.eta,
                                       options.generator, options.callback_on_step_end});
  return call.decode(latents, options.output_type);
}

}  // namespace diffusers
