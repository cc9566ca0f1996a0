#include <utility>

#include <diffusers/models/denoiser.h>
#include <diffusers/training/controlnet_task.h>

#include <ATen/ATen.h>

#include "core/json.h"
#include "core/require.h"
#include "training/tasks/text_to_image_parts.h"

namespace diffusers {
namespace {

constexpr const char* kControlNetTask = "ControlNetTask";

/// A ControlNet for the UNet: the given one, or a new one.
ControlNetModel controlnet_for(const TextToImageModels& models, ControlNetModel given,
                               const DiffusionTaskOptions& options) {
  require<ConfigError>(!options.conditioning,
                       "{}: diffusion.conditioning is set, but the task computes the conditioning of the "
                       "captions itself; override conditioning() to change it",
                       kControlNetTask);
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

void check_crop(const TextToImageModels& models, const ControlNetTaskOptions& options) {
  for (const auto& [name, value] : {std::pair("crops_coords_top_left_h", options.crops_coords_top_left_h),
                                    std::pair("crops_coords_top_left_w", options.crops_coords_top_left_w)}) {
    require<ConfigError>(value >= 0, "{} is {}, expected 0 or more", name, value);
    require<ConfigError>(value == 0 || models.is_xl(),
                         "{} is {}, but only the UNet of Stable Diffusion XL is told a crop; expected 0",
                         name, value);
  }
}

/// The UNet's prediction with the residuals of the ControlNet. The conditioning image is passed as
/// `added_cond_kwargs.hint`, which no UNet of Stable Diffusion has, so that it is cut with the batch.
Denoiser controlled(const UNet2DConditionModel& unet, const ControlNetModel& controlnet) {
  return [denoise = make_denoiser(unet), controlnet](const Tensor& noisy, const Tensor& timesteps,
                                                     const Conditioning& given) {
    Conditioning conditioning = given;
    const Tensor image = std::exchange(conditioning.added_cond_kwargs.hint, {});
    ControlNetOutput residuals = controlnet->forward(
        noisy, timesteps, conditioning.encoder_hidden_states, image,
        {.class_labels = conditioning.class_labels, .added_cond_kwargs = conditioning.added_cond_kwargs});
    conditioning.down_block_additional_residuals = std::move(residuals.down_block_res_samples);
    conditioning.mid_block_additional_residual = std::move(residuals.mid_block_res_sample);
    return denoise(noisy, timesteps, conditioning);
  };
}

TrainableDenoiser trainable(const TextToImageModels& models, const ControlNetModel& controlnet) {
  DenoiserInfo info = denoiser_info(models.unet);
  info.dropout = 0.0;  // the UNet is in eval mode, and a ControlNet has none
  TrainableDenoiser model(make_saved_module(controlnet), controlled(models.unet, controlnet),
                          std::move(info));
  model.is_thread_safe = true;
  return model;
}

}  // namespace

ControlNetTask::ControlNetTask(TextToImageModels models, ControlNetModel controlnet,
                               ControlNetTaskOptions options)
    : DiffusionTask(
          trainable(models, controlnet = controlnet_for(models, std::move(controlnet), options.diffusion)),
          *training_scheduler(models, kControlNetTask), options.diffusion, "controlnet"),
      models_(std::move(models)),
      controlnet_(std::move(controlnet)),
      control_options_(std::move(options)),
      parts_(std::make_shared<TextToImageParts>(models_, /*trains_text_encoders=*/false,
                                                control_options_.proportion_empty_prompts)) {
  require<ConfigError>(
      !models_.is_inpainting(),
      "ControlNetTask: the unet has {} input channels, which is an inpainting UNet; expected "
      "{}, the channels of the latents",
      models_.unet->config().in_channels, models_.vae->config().latent_channels);
  check_crop(models_, control_options_);
  if (control_options_.cache_text_embeddings) parts_->cache_text_embeddings();
  check_controlnet(controlnet_->config(), models_.unet->config(), parts_->encoder().downsampling_factor());
}

ControlNetModel ControlNetTask::make_controlnet(const TextToImageModels& models) {
  complete_models(models, kControlNetTask);
  const int64_t factor = LatentEncoder(models.vae).downsampling_factor();
  std::vector<int64_t> channels = {16};
  for (int64_t halved = 2; halved <= factor; halved *= 2)
    channels.push_back(channels.size() == 1 ? 32 : channels.size() == 2 ? 96 : 256);
  return ControlNetModel::from_unet(models.unet, {.conditioning_embedding_out_channels = channels});
}

std::vector<NamedModule> ControlNetTask::frozen() const {
  std::vector<NamedModule> modules = parts_->text_encoders();
  modules.push_back(parts_->encoder().frozen_module());
  modules.push_back({"unet", make_saved_module(models_.unet), /*is_averaged=*/false});
  return modules;
}

void ControlNetTask::configure(const TrainingConfig& config) {
  DiffusionTask::configure(config);
  parts_->set_resolution(config.resolution);
  parts_->clear_text_embeddings();
  if (config.gradient_checkpointing) {
    UNet2DConditionModel unet = models_.unet;
    unet->enable_gradient_checkpointing();
  }
}

BatchSplit ControlNetTask::batch_split() const {
  BatchSplit split = DiffusionTask::batch_split();
  split.downsampling_factor = parts_->encoder().downsampling_factor();
  return split;
}

void ControlNetTask::check_batch(const Batch& batch) {
  DiffusionTask::check_batch(batch);
  parts_->check_batch(batch);
  const Tensor& conditioning = batch.conditioning_images;
  require<ConfigError>(conditioning.defined(),
                       "the dataset gives no conditioning images; ImageFolder reads them from the column "
                       "conditioning_image_column");
  const std::vector<int64_t> expected = {batch.images.size(0), controlnet_->config().conditioning_channels,
                                         batch.images.size(2), batch.images.size(3)};
  require<TensorError>(
      conditioning.sizes() == expected && at::isFloatingType(conditioning.scalar_type()),
      "conditioning_images are {}, expected a floating tensor {}: the size of the images and the "
      "conditioning_channels of the controlnet",
      describe(conditioning), shape_string(expected));
}

void ControlNetTask::begin_step(const StepContext& context) {
  DiffusionTask::begin_step(context);
  parts_->begin_step(context);
}

Tensor ControlNetTask::encode(const Batch& batch) { return parts_->encode(batch, validation_generator_); }

DiffusionTask::Draw ControlNetTask::draw(const Tensor& x0) {
  Draw drawn = DiffusionTask::draw(x0);
  parts_->draw_dropped(x0);
  return drawn;
}

Conditioning ControlNetTask::conditioning(const Batch& batch) {
  // As in train_controlnet_sdxl.py: without original sizes, the time ids hold the size of the images.
  Batch told = batch;
  told.original_sizes = Tensor();
  const int64_t height = control_options_.crops_coords_top_left_h;
  const int64_t width = control_options_.crops_coords_top_left_w;
  told.crop_top_lefts = at::tensor({height, width}, at::kLong).view({1, 2}).expand({batch.size(), 2});
  Conditioning conditioning = parts_->conditioning(told, DiffusionTask::conditioning(batch));
  conditioning.added_cond_kwargs.hint = batch.conditioning_images;
  return conditioning;
}

Tensor ControlNetTask::validation_loss(const Batch& batch, const Tensor& positions,
                                       const Generator& generator) {
  check_batch(batch);
  validation_generator_ = generator;
  try {
    Tensor losses = DiffusionTask::validation_loss(batch, positions, generator);
    validation_generator_.reset();
    return losses;
  } catch (...) {
    validation_generator_.reset();
    throw;
  }
}

void ControlNetTask::save_extras(const std::filesystem::path& output_dir) const {
  DiffusionTask::save_extras(output_dir);
  models_.scheduler->save_pretrained(output_dir / "scheduler");
  controlnet_->save_pretrained(output_dir);
}

std::string ControlNetTask::config_json() const {
  Json json = parse_json(DiffusionTask::config_json(), "the config of the DiffusionTask");
  json["_class_name"] = kControlNetTask;
  json["proportion_empty_prompts"] = control_options_.proportion_empty_prompts;
  if (models_.is_xl()) {
    json["crops_coords_top_left_h"] = control_options_.crops_coords_top_left_h;
    json["crops_coords_top_left_w"] = control_options_.crops_coords_top_left_w;
  }
  return dump_json(json);
}

}  // namespace diffusers
