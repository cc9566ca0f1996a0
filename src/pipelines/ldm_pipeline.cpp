#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/vq_model.h>
#include <diffusers/pipelines/inference_guard.h>
#include <diffusers/pipelines/ldm_pipeline.h>

#include "core/require.h"
#include "pipelines/latent_models.h"

namespace diffusers {

const PipelineSpec& LDMPipeline::spec() {
  static const PipelineSpec spec{
      .class_name = "LDMPipeline",
      .components = {{.name = "vqvae", .class_names = {"VQModel", "AutoencoderKL"}},
                     {.name = "unet", .class_names = {"UNet2DModel"}},
                     {.name = "scheduler"}}};
  return spec;
}

LDMPipeline::LDMPipeline(const VQModel& vqvae, const UNet2DModel& unet, const Scheduler& scheduler)
    : LDMPipeline(PipelineComponents{{"vqvae", vqvae}, {"unet", unet}, {"scheduler", scheduler}}) {}

LDMPipeline::LDMPipeline(const AutoencoderKL& vae, const UNet2DModel& unet, const Scheduler& scheduler)
    : LDMPipeline(PipelineComponents{{"vqvae", vae}, {"unet", unet}, {"scheduler", scheduler}}) {}

LDMPipeline::LDMPipeline(PipelineComponents components) : TypedPipeline(std::move(components)) {
  const LatentUNet model(this->components().at("unet"));
  model.sample_size(*this);
  const LatentAutoencoder autoencoder(this->components().at("vqvae"));
  require<ConfigError>(model.info.in_channels == autoencoder.latent_channels(),
                       "LDMPipeline: in_channels of the unet is {}, but the latents of the vqvae have {} "
                       "channels; expected equal numbers",
                       model.info.in_channels.value_or(0), autoencoder.latent_channels());
}

ImagePipelineOutput LDMPipeline::operator()(const LDMPipelineOptions& options) {
  require<ConfigError>(options.batch_size > 0, "batch_size is {}, expected at least 1", options.batch_size);
  const InferenceGuard guard(*this);
  const LatentUNet model(components().at("unet"));
  const auto [height, width] = model.sample_size(*this);
  const Tensor noise = latent_noise(model, {options.batch_size, unet()->config().in_channels, height, width},
                                    options.generator);
  return sample_latents(*this, LatentAutoencoder(components().at("vqvae")), model.denoise, {}, noise,
                        {options.num_inference_steps, options.eta, options.generator, options.output_type,
                         options.callback_on_step_end});
}

UNet2DModel& LDMPipeline::unet() { return component<UNet2DModel>("unet"); }

}  // namespace diffusers
