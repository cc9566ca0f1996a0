#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/models/denoiser.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/training/t2i_adapter_task.h>

#include <ATen/ATen.h>

#include "core/json.h"
#include "core/require.h"
#include "training/objective/scheduler_facts.h"
#include "training/objective/sigma_process.h"
#include "training/tasks/adapter_fit.h"
#include "training/tasks/text_to_image_parts.h"

namespace diffusers {
namespace {

constexpr const char* kT2IAdapterTask = "T2IAdapterTask";

/// An adapter for the UNet: the given one, or a new one.
T2IAdapter adapter_for(const TextToImageModels& models, T2IAdapter given,
                       const DiffusionTaskOptions& options) {
  require<ConfigError>(!options.conditioning,
                       "{}: diffusion.conditioning is set, but the task computes the conditioning of the "
                       "captions itself; override conditioning() to change it",
                       kT2IAdapterTask);
  complete_models(models, kT2IAdapterTask);
  require<ConfigError>(
      !models.is_inpainting(),
      "{}: the unet has {} input channels, which is an inpainting UNet; expected {}, the channels of the "
      "latents",
      kT2IAdapterTask, models.unet->config().in_channels, models.vae->config().latent_channels);
  if (!given.is_empty()) return given;
  T2IAdapter adapter = T2IAdapterTask::make_adapter(models);
  const Tensor weight = models.unet->parameters().front();
  adapter->to(weight.device(), weight.scalar_type());
  return adapter;
}

/// The scheduler whose sigmas Python's script uses.
EulerDiscreteScheduler adapter_scheduler(const TextToImageModels& models) {
  complete_models(models, kT2IAdapterTask);
  const Scheduler& scheduler = *models.scheduler;
  require<ConfigError>(variance_preserving_schedule(scheduler).has_value(),
                       "{}: the scheduler is a {}, which has no betas; expected a scheduler of Stable "
                       "Diffusion 1.x, 2.x or XL",
                       kT2IAdapterTask, scheduler.class_name());
  return EulerDiscreteScheduler::from_config(scheduler.config_json());
}

/// The UNet's prediction with the features of the adapter. The conditioning image is passed as
/// `added_cond_kwargs.hint`, which no UNet of Stable Diffusion has, so that it is cut with the batch.
Denoiser with_adapter_features(const UNet2DConditionModel& unet, const T2IAdapter& adapter) {
  return [denoise = make_denoiser(unet), adapter](const Tensor& noisy, const Tensor& timesteps,
                                                  const Conditioning& given) {
    Conditioning conditioning = given;
    const Tensor image = std::exchange(conditioning.added_cond_kwargs.hint, {});
    conditioning.down_intrablock_additional_residuals = adapter->forward(image);
    return denoise(noisy, timesteps, conditioning);
  };
}

TrainableDenoiser trainable_adapter(const TextToImageModels& models, const T2IAdapter& adapter) {
  DenoiserInfo info = denoiser_info(models.unet);
  info.dropout = 0.0;  // the UNet is in eval mode, and an adapter has none
  TrainableDenoiser model(make_saved_module(adapter), with_adapter_features(models.unet, adapter),
                          std::move(info));
  model.is_thread_safe = true;
  return model;
}

void check_crops(const std::vector<int64_t>& crops, bool is_xl) {
  if (crops.empty()) return;
  require<ConfigError>(is_xl,
                       "crops_coords_top_left is [{}], which only a UNet of Stable Diffusion XL is told",
                       fmt::join(crops, ", "));
  const bool is_valid = crops.size() == 2 && std::min(crops[0], crops[1]) >= 0;
  require<ConfigError>(is_valid, "crops_coords_top_left is [{}], expected two numbers, each 0 or more",
                       fmt::join(crops, ", "));
}

}  // namespace

T2IAdapterTask::T2IAdapterTask(TextToImageModels models, T2IAdapter adapter, T2IAdapterTaskOptions options)
    : DiffusionTask(
          trainable_adapter(models, adapter = adapter_for(models, std::move(adapter), options.diffusion)),
          adapter_scheduler(models), options.diffusion, "t2iadapter"),
      models_(std::move(models)),
      adapter_(std::move(adapter)),
      adapter_options_(std::move(options)),
      parts_(std::make_shared<TextToImageParts>(models_, /*trains_text_encoders=*/false,
                                                adapter_options_.proportion_empty_prompts)) {
  if (adapter_options_.cache_text_embeddings) parts_->cache_text_embeddings();
  check_crops(adapter_options_.crops_coords_top_left, models_.is_xl());
  const std::string misfit =
      adapter_misfit(adapter_->config(), models_.unet->config(), parts_->encoder().downsampling_factor());
  require<ConfigError>(misfit.empty(), "{}: {}", kT2IAdapterTask, misfit);
}

T2IAdapter T2IAdapterTask::make_adapter(const TextToImageModels& models) {
  complete_models(models, kT2IAdapterTask);
  return T2IAdapter(new_adapter_config(models.unet->config(), models.is_xl(),
                                       LatentEncoder(models.vae).downsampling_factor()));
}

std::vector<NamedModule> T2IAdapterTask::frozen() const {
  std::vector<NamedModule> modules = parts_->text_encoders();
  modules.push_back(parts_->encoder().frozen_module());
  modules.push_back({"unet", make_saved_module(models_.unet), /*is_averaged=*/false});
  return modules;
}

void T2IAdapterTask::configure(const TrainingConfig& config) {
  TrainingConfig of_adapter = config;
  of_adapter.gradient_checkpointing = false;
  DiffusionTask::configure(of_adapter);
  parts_->set_resolution(config.resolution);
  parts_->clear_text_embeddings();
  if (config.gradient_checkpointing) {
    UNet2DConditionModel unet = models_.unet;
    unet->enable_gradient_checkpointing();
  }
}

std::shared_ptr<const ForwardProcess> T2IAdapterTask::make_process(const Scheduler& scheduler,
                                                                   const DiffusionLossOptions& loss) const {
  return std::make_shared<SigmaProcess>(dynamic_cast<const EulerDiscreteScheduler&>(scheduler), loss);
}

BatchSplit T2IAdapterTask::batch_split() const {
  BatchSplit split = DiffusionTask::batch_split();
  split.downsampling_factor = parts_->encoder().downsampling_factor();
  return split;
}

void T2IAdapterTask::check_batch(const Batch& batch) {
  DiffusionTask::check_batch(batch);
  parts_->check_batch(batch);
  const T2IAdapterConfig& config = adapter_->config();
  const int64_t height = batch.images.size(2), width = batch.images.size(3);
  require<TensorError>(height % config.downscale_factor == 0 && width % config.downscale_factor == 0,
                       "images are {}, expected a height and a width that the downscale_factor of the "
                       "adapter, {}, divides",
                       describe(batch.images), config.downscale_factor);
  const Tensor& conditioning = batch.conditioning_images;
  require<ConfigError>(conditioning.defined(),
                       "the dataset gives no conditioning images; ImageFolder reads them from the column "
                       "conditioning_image_column");
  const std::vector<int64_t> expected = {batch.images.size(0), config.in_channels, height, width};
  require<TensorError>(
      conditioning.sizes() == expected && at::isFloatingType(conditioning.scalar_type()),
      "conditioning_images are {}, expected a floating tensor {}: the size of the images and the in_channels "
      "of the adapter",
      describe(conditioning), shape_string(expected));
}

void T2IAdapterTask::begin_step(const StepContext& context) {
  DiffusionTask::begin_step(context);
  parts_->begin_step(context);
}

Tensor T2IAdapterTask::encode(const Batch& batch) { return parts_->encode(batch, std::nullopt); }

Tensor T2IAdapterTask::encode_for_validation(const Batch& batch, const Generator& generator) {
  check_batch(batch);
  return parts_->encode(batch, generator);
}

DiffusionTask::Draw T2IAdapterTask::draw(const Tensor& x0) {
  Draw drawn = DiffusionTask::draw(x0);
  parts_->draw_dropped(x0);
  return drawn;
}

Conditioning T2IAdapterTask::conditioning(const Batch& batch) {
  Batch told = batch;
  if (const std::vector<int64_t>& crop = adapter_options_.crops_coords_top_left; !crop.empty()) {
    told.original_sizes = Tensor();
    told.crop_top_lefts = at::tensor(crop, at::kLong).expand({batch.images.size(0), 2});
  }
  Conditioning conditioning = parts_->conditioning(told, DiffusionTask::conditioning(batch));
  conditioning.added_cond_kwargs.hint = batch.conditioning_images;
  return conditioning;
}

void T2IAdapterTask::save_extras(const std::filesystem::path& output_dir) const {
  DiffusionTask::save_extras(output_dir);
  models_.scheduler->save_pretrained(output_dir / "scheduler");
  adapter_->save_pretrained(output_dir);
}

std::string T2IAdapterTask::config_json() const {
  Json json = parse_json(DiffusionTask::config_json(), "the config of the DiffusionTask");
  json["_class_name"] = kT2IAdapterTask;
  json["proportion_empty_prompts"] = adapter_options_.proportion_empty_prompts;
  json["crops_coords_top_left"] = adapter_options_.crops_coords_top_left;
  return dump_json(json);
}

}  // namespace diffusers
