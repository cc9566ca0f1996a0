#include <utility>

#include <diffusers/training/controlnet_task.h>

#include "core/require.h"
#include "training/tasks/conditioning_image.h"
#include "training/tasks/text_to_image_parts.h"

namespace diffusers {
namespace {

constexpr const char* kControlNetTask = "ControlNetTask";

/// A ControlNet for the UNet: the given one, or a new one.
ControlNetModel controlnet_for(const TextToImageModels& models, ControlNetModel given) {
  complete_models(models, kControlNetTask);
  if (!given.is_empty()) return given;
  ControlNetModel controlnet = ControlNetTask::make_controlnet(models);
  const Tensor weight = models.unet->parameters().front();
  controlnet->to(weight.device(), weight.scalar_type());
  return controlnet;
}

/// The layers whose outputs are added must have the shapes of the UNet's.
void check_controlnet(const ControlNetModelConfig& controlnet, const UNet2DConditionModelConfig& unet,
                      int64_t factor) {
  const auto check = [](const char* key, const auto& found, const auto& expected) {
    require<ConfigError>(found == expected, "{} of the controlnet is {}, but that of the unet is {}", key,
                         found, expected);
  };
  check("in_channels", controlnet.in_channels, unet.in_channels);
  check("block_out_channels", controlnet.block_out_channels, unet.block_out_channels);
  for (const int64_t layers : unet.layers_per_block.values())
    check("layers_per_block", controlnet.layers_per_block, layers);
  for (const int64_t width : unet.cross_attention_dim.values())
    check("cross_attention_dim", controlnet.cross_attention_dim, width);
  const std::size_t steps = controlnet.conditioning_embedding_out_channels.size();
  require<ConfigError>(steps > 0 && steps < 32 && int64_t{1} << (steps - 1) == factor,
                       "conditioning_embedding_out_channels of the controlnet is [{}], which makes a "
                       "conditioning image smaller by 2^{}, but the vae makes an image smaller by {}",
                       fmt::join(controlnet.conditioning_embedding_out_channels, ", "), steps - 1, factor);
}

/// The UNet's prediction with the residuals of the ControlNet.
TrainableDenoiser trainable(const TextToImageModels& models, const ControlNetModel& controlnet) {
  return with_features(
      models.unet, make_saved_module(controlnet),
      [controlnet](const Tensor& image, const Tensor& noisy, const Tensor& timesteps,
                   Conditioning& conditioning) {
        ControlNetOutput residuals = controlnet->forward(
            noisy, timesteps, conditioning.encoder_hidden_states, image,
            {.class_labels = conditioning.class_labels, .added_cond_kwargs = conditioning.added_cond_kwargs});
        conditioning.down_block_additional_residuals = std::move(residuals.down_block_res_samples);
        conditioning.mid_block_additional_residual = std::move(residuals.mid_block_res_sample);
      });
}

}  // namespace

ControlNetTask::ControlNetTask(const TextToImageModels& models, ControlNetModel controlnet,
                               ControlNetTaskOptions options)
    : StableDiffusionTask(kControlNetTask, models,
                          trainable(models, controlnet = controlnet_for(models, controlnet)),
                          *training_scheduler(models, kControlNetTask),
                          {.proportion_empty_prompts = options.proportion_empty_prompts,
                           .cache_text_embeddings = options.cache_text_embeddings,
                           .diffusion = options.diffusion},
                          "controlnet"),
      controlnet_(std::move(controlnet)),
      control_options_(std::move(options)) {
  refuse_inpainting(models, kControlNetTask);
  check_crop(models, control_options_.crops_coords_top_left_h, control_options_.crops_coords_top_left_w);
  check_controlnet(controlnet_->config(), models.unet->config(),
                   LatentEncoder(models.vae).downsampling_factor());
}

ControlNetModel ControlNetTask::make_controlnet(const TextToImageModels& models) {
  complete_models(models, kControlNetTask);
  const int64_t factor = LatentEncoder(models.vae).downsampling_factor();
  std::vector<int64_t> channels = {16};
  for (int64_t halved = 2; halved <= factor; halved *= 2)
    channels.push_back(channels.size() == 1 ? 32 : channels.size() == 2 ? 96 : 256);
  return ControlNetModel::from_unet(models.unet, {.conditioning_embedding_out_channels = channels});
}

void ControlNetTask::check_batch(const Batch& batch) {
  StableDiffusionTask::check_batch(batch);
  check_conditioning_images(batch, controlnet_->config().conditioning_channels,
                            "conditioning_channels of the controlnet");
}

Conditioning ControlNetTask::conditioning(const Batch& batch) {
  Conditioning conditioning = StableDiffusionTask::conditioning(
      with_crop(batch, control_options_.crops_coords_top_left_h, control_options_.crops_coords_top_left_w));
  conditioning.added_cond_kwargs.hint = batch.conditioning_images;
  return conditioning;
}

void ControlNetTask::save_extras(const std::filesystem::path& output_dir) const {
  DiffusionTask::save_extras(output_dir);
  models().scheduler->save_pretrained(output_dir / "scheduler");
  controlnet_->save_pretrained(output_dir);
}

std::string ControlNetTask::config_json() const {
  return config_with_crop(StableDiffusionTask::config_json(), models().is_xl(),
                          control_options_.crops_coords_top_left_h, control_options_.crops_coords_top_left_w);
}

}  // namespace diffusers
