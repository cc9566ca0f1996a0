#include <cmath>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/pipelines/stable_diffusion_instruct_pix2pix_pipeline.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "models/unet/row_parts.h"
#include "pipelines/image_inputs.h"
#include "pipelines/stable_diffusion.h"

namespace diffusers {
namespace {

using Pix2PixOptions = StableDiffusionInstructPix2PixPipelineOptions;

/// The latents of the image, one for each of the batch: the mode, without the scaling factor.
Tensor original_latents(const StableDiffusionCall& call, const Tensor& image, int64_t batch_size) {
  Tensor latents = image;
  if (image.size(1) != kImageLatentChannels)
    latents = call.vae()->encode(image.to(call.vae()->parameters().front().options())).latent_dist.mode();
  return repeated_rows("image", latents.to(call.tensor_options()), batch_size);
}

/// Runs the UNet on three parts (with instruction and image, with the image, with neither) and combines them:
/// Brooks et al. 2023, eq. 3, in Python's order.
Denoiser pix2pix_guidance(Denoiser denoiser, double guidance_scale, double image_guidance_scale) {
  return [=, denoiser = std::move(denoiser)](const Tensor& noisy, const Tensor& timesteps,
                                             const Conditioning& conditioning) {
    const Tensor t = timesteps.dim() > 0 ? at::cat({timesteps, timesteps, timesteps}) : timesteps;
    const std::vector<Tensor> parts = denoiser(at::cat({noisy, noisy, noisy}), t, conditioning).chunk(3);
    return parts[2] + guidance_scale * (parts[0] - parts[1]) + image_guidance_scale * (parts[1] - parts[2]);
  };
}

void check_scales(const Pix2PixOptions& options) {
  for (const auto& [name, scale] : {std::pair("guidance_scale", options.guidance_scale),
                                    std::pair("image_guidance_scale", options.image_guidance_scale)})
    require<ConfigError>(std::isfinite(scale), "{} is {}, expected a finite number", name, scale);
}

void check_pix2pix_unet(const StableDiffusionCall& call) {
  const int64_t channels = call.unet()->config().in_channels;
  const int64_t latents = call.vae()->config().latent_channels;
  require<ConfigError>(channels == 2 * latents,
                       "StableDiffusionInstructPix2PixPipeline: the UNet has {} input channels, expected {}: "
                       "the noisy latents and the latents of the image",
                       channels, 2 * latents);
}

}  // namespace

const PipelineSpec& StableDiffusionInstructPix2PixPipeline::spec() {
  static const PipelineSpec spec = [] {
    PipelineSpec made = spec_of("StableDiffusionInstructPix2PixPipeline");
    made.adapt_scheduler = nullptr;  // Python's class does not correct old configs
    return made;
  }();
  return spec;
}

StableDiffusionInstructPix2PixPipeline::StableDiffusionInstructPix2PixPipeline(
    const AutoencoderKL& vae, const CLIPTextModel& text_encoder, const CLIPTokenizer& tokenizer,
    const UNet2DConditionModel& unet, const Scheduler& scheduler)
    : StableDiffusionInstructPix2PixPipeline(components_of(vae, text_encoder, tokenizer, unet, scheduler)) {}

StableDiffusionInstructPix2PixPipeline::StableDiffusionInstructPix2PixPipeline(PipelineComponents components)
    : TypedPipeline(std::move(components)) {}

ImagePipelineOutput StableDiffusionInstructPix2PixPipeline::operator()(const Pix2PixOptions& options) {
  check_scales(options);
  const StableDiffusionCall call(*this);
  check_pix2pix_unet(call);
  const bool is_guided = options.guidance_scale > 1 && options.image_guidance_scale >= 1;
  EncodedPrompt prompt = call.encode_prompt({.prompt = options.prompt,
                                             .negative_prompt = options.negative_prompt,
                                             .prompt_embeds = options.prompt_embeds,
                                             .negative_prompt_embeds = options.negative_prompt_embeds,
                                             .num_images_per_prompt = options.num_images_per_prompt,
                                             .guidance_scale = is_guided ? options.guidance_scale : 1.0,
                                             .clip_skip = std::nullopt});
  const Tensor image = preprocessed_image(class_name(), options.image, call.vae_scale_factor());
  const int64_t steps = call.set_timesteps(options.num_inference_steps, {}, {});
  Tensor original = original_latents(call, image, prompt.batch_size);
  const std::vector<int64_t> shape = {prompt.batch_size, call.vae()->config().latent_channels,
                                      original.size(2), original.size(3)};
  const Tensor noise = call.noise(options.latents, shape, options.generator);

  Denoiser denoiser = in_automatic_parts(make_denoiser(call.unet()), *call.unet());
  if (prompt.is_guided) {
    Tensor& states = prompt.conditioning.encoder_hidden_states;
    const std::vector<Tensor> halves = states.chunk(2);  // without the prompt, with it
    states = at::cat({halves[1], halves[0], halves[0]});
    original = at::cat({original, original, at::zeros_like(original)});
    denoiser = pix2pix_guidance(std::move(denoiser), options.guidance_scale, options.image_guidance_scale);
    prompt.is_guided = false;  // the denoiser has its own guidance
  }
  prompt.conditioning.extra_channels = original;
  const DenoisingOptions denoising = denoising_options(options);
  const Tensor latents =
      call.denoise(denoiser, prompt, noise * scheduler().init_noise_sigma(), /*start=*/0, steps, denoising);
  return call.decode(latents, options.output_type);
}

}  // namespace diffusers
