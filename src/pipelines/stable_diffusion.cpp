#include "pipelines/stable_diffusion.h"

#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/pipelines/denoise.h>
#include <diffusers/pipelines/guidance.h>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {

StableDiffusionCall::StableDiffusionCall(StableDiffusionBase& pipeline)
    : pipeline_(pipeline),
      guard_(pipeline),
      vae_(pipeline.vae()),
      text_encoder_(pipeline.text_encoder()),
      tokenizer_(pipeline.tokenizer()),
      unet_(pipeline.unet()) {}

int64_t StableDiffusionCall::vae_scale_factor() const {
  return int64_t{1} << (vae_->config().block_out_channels.size() - 1);
}

at::TensorOptions StableDiffusionCall::tensor_options() const {
  return unet_->parameters().front().options();
}

int64_t StableDiffusionCall::set_timesteps(int64_t num_inference_steps, const std::vector<double>& timesteps,
                                           const std::vector<double>& sigmas) const {
  require<ConfigError>(timesteps.empty() || sigmas.empty(),
                       "timesteps and sigmas are both given, expected at most one of them");
  const at::Device device = tensor_options().device();
  if (!timesteps.empty() || !sigmas.empty()) {
    scheduler().set_timesteps(std::nullopt, {.device = device, .sigmas = sigmas, .timesteps = timesteps});
    return scheduler().timesteps().size(0);
  }
  require<ConfigError>(num_inference_steps > 0, "num_inference_steps is {}, expected at least 1",
                       num_inference_steps);
  scheduler().set_timesteps(num_inference_steps, {.device = device});
  return num_inference_steps;
}

Tensor StableDiffusionCall::denoise(const Denoiser& denoiser, const EncodedPrompt& prompt,
                                    const Tensor& latents, int64_t start, int64_t num_inference_steps,
                                    const DenoisingOptions& options) const {
  SamplingLoopOptions loop{.step = {.generator = options.generator}, .start_step = start};
  if (scheduler().takes_eta()) loop.step.eta = options.eta;
  const Denoiser guided = prompt.is_guided ? classifier_free_guidance(
                                                 denoiser, {options.guidance_scale, options.guidance_rescale})
                                           : denoiser;
  return diffusers::denoise(pipeline_, guided, prompt.conditioning, latents, num_inference_steps,
                            options.callback_on_step_end, std::move(loop));
}

ImagePipelineOutput StableDiffusionCall::decode(const Tensor& latents, OutputType output_type) const {
  if (output_type == OutputType::kLatent) return {latents};
  const Tensor z = (latents / vae_->config().scaling_factor).to(vae_->parameters().front().options());
  const Tensor images = vae_->decode(z).sample;
  return {(images * 0.5 + 0.5).clamp(0, 1)};
}

}  // namespace internal
}  // namespace diffusers
