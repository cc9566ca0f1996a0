#include "pipelines/latent_call.h"

#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/pipelines/denoise.h>
#include <diffusers/pipelines/guidance.h>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {

LatentCall::LatentCall(DiffusionPipeline& pipeline)
    : pipeline_(pipeline),
      guard_(pipeline),
      vae_(pipeline.component<AutoencoderKL>("vae")),
      unet_(pipeline.component<UNet2DConditionModel>("unet")) {}

int64_t LatentCall::vae_scale_factor() const {
  return int64_t{1} << (vae_->config().block_out_channels.size() - 1);
}

at::TensorOptions LatentCall::tensor_options() const { return unet_->parameters().front().options(); }

std::pair<int64_t, int64_t> LatentCall::unet_image_size() const {
  const std::vector<int64_t> size = unet_->config().sample_size.expand(2);
  require<ConfigError>(
      size.size() == 2 && size[0] > 0 && size[1] > 0,
      "{}: the UNet's sample_size is [{}], expected one or two positive numbers where height and width are "
      "not given",
      pipeline_.class_name(), fmt::join(size, ", "));
  return {size[0] * vae_scale_factor(), size[1] * vae_scale_factor()};
}

std::pair<int64_t, int64_t> LatentCall::image_size(std::optional<int64_t> height,
                                                   std::optional<int64_t> width, int64_t multiple) const {
  int64_t h = height.value_or(0);
  int64_t w = width.value_or(0);
  if (h == 0 || w == 0) {
    const std::pair<int64_t, int64_t> size = unet_image_size();
    if (h == 0) h = size.first;
    if (w == 0) w = size.second;
  }
  const int64_t scale = vae_scale_factor();
  require<ConfigError>(h > 0 && w > 0 && h % multiple == 0 && w % multiple == 0,
                       "height and width are {} and {}, expected positive multiples of {}", h, w, multiple);
  require<ConfigError>(h % scale == 0 && w % scale == 0,
                       "height and width are {} and {}, expected multiples of {}, the vae's scale", h, w,
                       scale);
  return {h, w};
}

int64_t LatentCall::set_timesteps(int64_t num_inference_steps, const std::vector<double>& timesteps,
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

StepRange LatentCall::last_steps(int64_t num_inference_steps, double strength) const {
  const auto count = static_cast<int64_t>(static_cast<double>(num_inference_steps) * strength);
  const int64_t start = (num_inference_steps - count) * scheduler().order();
  require<ConfigError>(count > 0 && start < scheduler().timesteps().size(0),
                       "strength is {}, which leaves none of {} steps", strength, num_inference_steps);
  if (scheduler().has_begin_index()) scheduler().set_begin_index(start);
  return {start, count};
}

Tensor LatentCall::noise(const Tensor& latents, at::IntArrayRef shape,
                         const std::optional<Generator>& generator) const {
  const at::TensorOptions options = tensor_options();
  if (!latents.defined())
    return randn_tensor(shape, generator, options.device(), c10::typeMetaToScalarType(options.dtype()));
  require<TensorError>(latents.sizes() == shape, "latents is {}, expected {}", describe(latents),
                       shape_string(shape));
  return latents.to(options);
}

Tensor LatentCall::guidance_scale_embedding(double guidance_scale, int64_t batch_size) const {
  const int64_t width = *unet_->config().time_cond_proj_dim;
  const int64_t half = width / 2;
  // Positional, of 1000 (w - 1); in float32 throughout, as in Python.
  const Tensor w = at::full({batch_size, 1}, guidance_scale - 1, at::kFloat) * 1000.0;
  const Tensor rate = at::full({}, 10000.0, at::kFloat).log() / (half - 1);
  const Tensor angles = w * at::exp(at::arange(half, at::kFloat) * -rate).unsqueeze(0);
  Tensor embedding = at::cat({angles.sin(), angles.cos()}, 1);
  if (width % 2 == 1) embedding = at::constant_pad_nd(embedding, {0, 1});
  return embedding.to(tensor_options());
}

bool LatentCall::is_guided(double guidance_scale) const {
  return guidance_scale > 1 && !unet_->config().time_cond_proj_dim.has_value();
}

Tensor LatentCall::add_noise(const Tensor& latents, const Tensor& noise, int64_t start) const {
  const Timesteps timesteps = scheduler().timesteps();
  return scheduler().add_noise(latents, noise, timesteps[start].reshape({1}).repeat({latents.size(0)}));
}

Tensor LatentCall::denoise(const Denoiser& denoiser, const EncodedPrompt& prompt, const Tensor& latents,
                           int64_t start, int64_t num_inference_steps,
                           const DenoisingOptions& options) const {
  SamplingLoopOptions loop{.step = {.generator = options.generator},
                           .callback = options.after_step,
                           .start_step = start,
                           .end_step = options.end_step};
  if (scheduler().takes_eta()) loop.step.eta = options.eta;
  const Denoiser guided = prompt.is_guided ? classifier_free_guidance(
                                                 denoiser, {options.guidance_scale, options.guidance_rescale})
                                           : denoiser;
  return diffusers::denoise(pipeline_, guided, prompt.conditioning, latents, num_inference_steps,
                            options.callback_on_step_end, std::move(loop));
}

Tensor LatentCall::encode_image(const Tensor& images, const std::optional<Generator>& generator) const {
  const auto posterior = vae_->encode(images.to(vae_->parameters().front().options())).latent_dist;
  return (posterior.sample(generator) * vae_->config().scaling_factor).to(tensor_options());
}

ImagePipelineOutput LatentCall::decode(const Tensor& latents, OutputType output_type) const {
  if (output_type == OutputType::kLatent) return {latents};
  const Tensor z = (latents / vae_->config().scaling_factor).to(vae_->parameters().front().options());
  const Tensor images = vae_->decode(z).sample;
  return {(images * 0.5 + 0.5).clamp(0, 1)};
}

}  // namespace internal
}  // namespace diffusers
