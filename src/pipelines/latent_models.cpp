#include "pipelines/latent_models.h"

#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/models/vq_model.h>
#include <diffusers/pipelines/denoise.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "models/unet/row_parts.h"

namespace diffusers {
inline namespace internal {
namespace {

template <class Model>
void take_unet(LatentUNet& unet, Model model) {
  unet.denoise = in_automatic_parts(make_denoiser(model), *model);
  unet.info = denoiser_info(model);
  unet.options = model->parameters().front().options();
  if (!model->config().sample_size.empty()) unet.size = model->config().sample_size.expand(2);
}

}  // namespace

LatentAutoencoder::LatentAutoencoder(const PipelineComponent& component)
    : component_(component), is_kl_(component.class_name() == "AutoencoderKL") {
  if (!is_kl_) {
    const VQModelConfig& config = component_.get<VQModel>()->config();
    latent_channels_ = config.vq_embed_dim.value_or(config.latent_channels);
    factor_ = int64_t{1} << (config.down_block_types.size() - 1);
    scaling_factor_ = config.scaling_factor;
    return;
  }
  const AutoencoderKLConfig& config = component_.get<AutoencoderKL>()->config();
  latent_channels_ = config.latent_channels;
  factor_ = int64_t{1} << (config.down_block_types.size() - 1);
  scaling_factor_ = config.scaling_factor;
  shift_factor_ = config.shift_factor;
  if (config.latents_mean.empty() || config.latents_std.empty()) return;
  mean_ = at::tensor(config.latents_mean, at::kDouble).view({1, -1, 1, 1}).to(options());
  std_ = at::tensor(config.latents_std, at::kDouble).view({1, -1, 1, 1}).to(options());
}

at::TensorOptions LatentAutoencoder::options() const {
  return component_.module()->parameters().front().options().requires_grad(false);
}

Tensor LatentAutoencoder::scaled(const Tensor& latents) const {
  if (mean_.defined()) return (latents - mean_) * scaling_factor_ / std_;
  return (shift_factor_ ? latents - *shift_factor_ : latents) * scaling_factor_;
}

Tensor LatentAutoencoder::unscaled(const Tensor& latents) const {
  if (mean_.defined()) return latents * std_ / scaling_factor_ + mean_;
  const Tensor z = latents / scaling_factor_;
  return shift_factor_ ? z + *shift_factor_ : z;
}

Tensor LatentAutoencoder::encode(const Tensor& images, bool is_mean,
                                 const std::optional<Generator>& generator) const {
  const Tensor input = images.to(options());
  if (!is_kl_) return scaled(component_.get<VQModel>()->encode(input).latents);
  const auto posterior = component_.get<AutoencoderKL>()->encode(input).latent_dist;
  return scaled(is_mean ? posterior.mean : posterior.sample(generator));
}

ImagePipelineOutput LatentAutoencoder::decode(const Tensor& latents, OutputType output_type) const {
  if (output_type == OutputType::kLatent) return {latents};
  const Tensor z = unscaled(latents.to(options()));
  const Tensor images = is_kl_ ? component_.get<AutoencoderKL>()->decode(z).sample
                               : component_.get<VQModel>()->decode(z).sample;
  return {(images / 2 + 0.5).clamp(0, 1)};
}

LatentUNet::LatentUNet(const PipelineComponent& component) {
  if (component.class_name() == "UNet2DModel") {
    take_unet(*this, component.get<UNet2DModel>());
  } else {
    take_unet(*this, component.get<UNet2DConditionModel>());
  }
  options = options.requires_grad(false);
}

std::pair<int64_t, int64_t> LatentUNet::sample_size(const DiffusionPipeline& pipeline) const {
  require<ConfigError>(size.size() == 2 && size[0] > 0 && size[1] > 0,
                       "{}: the UNet's sample_size is [{}], expected one or two positive numbers",
                       pipeline.class_name(), fmt::join(size, ", "));
  return {size[0], size[1]};
}

Tensor latent_noise(const LatentUNet& unet, at::IntArrayRef shape,
                    const std::optional<Generator>& generator) {
  return randn_tensor(shape, generator, unet.options.device(),
                      c10::typeMetaToScalarType(unet.options.dtype()));
}

ImagePipelineOutput sample_latents(DiffusionPipeline& pipeline, const LatentAutoencoder& autoencoder,
                                   const Denoiser& denoiser, const Conditioning& conditioning,
                                   const Tensor& noise, const LatentSampling& call) {
  require<ConfigError>(call.num_inference_steps > 0, "num_inference_steps is {}, expected at least 1",
                       call.num_inference_steps);
  Scheduler& scheduler = pipeline.scheduler();
  scheduler.set_timesteps(call.num_inference_steps, {.device = noise.device()});
  SamplingLoopOptions loop{.step = {.generator = call.generator}};
  if (scheduler.takes_eta()) loop.step.eta = call.eta;
  const Tensor latents = denoise(pipeline, denoiser, conditioning, noise * scheduler.init_noise_sigma(),
                                 call.num_inference_steps, call.callback_on_step_end, std::move(loop));
  return autoencoder.decode(latents, call.output_type);
}

}  // namespace internal
}  // namespace diffusers
