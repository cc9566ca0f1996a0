#include <string>
#include <utility>

#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/training/t2i_adapter_task.h>

#include "core/require.h"
#include "training/objective/scheduler_facts.h"
#include "training/objective/sigma_process.h"
#include "training/tasks/adapter_fit.h"
#include "training/tasks/conditioning_image.h"
#include "training/tasks/text_to_image_parts.h"

namespace diffusers {
namespace {

constexpr const char* kT2IAdapterTask = "T2IAdapterTask";

/// An adapter for the UNet: the given one, or a new one.
T2IAdapter adapter_for(const TextToImageModels& models, T2IAdapter given) {
  complete_models(models, kT2IAdapterTask);
  refuse_inpainting(models, kT2IAdapterTask);
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

/// The UNet's prediction with the features of the adapter.
TrainableDenoiser trainable_adapter(const TextToImageModels& models, const T2IAdapter& adapter) {
  return with_features(
      models.unet, make_saved_module(adapter),
      [adapter](const Tensor& image, const Tensor&, const Tensor&, Conditioning& conditioning) {
        conditioning.down_intrablock_additional_residuals = adapter->forward(image);
      });
}

}  // namespace

T2IAdapterTask::T2IAdapterTask(const TextToImageModels& models, T2IAdapter adapter,
                               T2IAdapterTaskOptions options)
    : StableDiffusionTask(kT2IAdapterTask, models,
                          trainable_adapter(models, adapter = adapter_for(models, adapter)),
                          adapter_scheduler(models),
                          {.proportion_empty_prompts = options.proportion_empty_prompts,
                           .cache_text_embeddings = options.cache_text_embeddings,
                           .diffusion = options.diffusion},
                          "t2iadapter"),
      adapter_(std::move(adapter)),
      adapter_options_(std::move(options)) {
  check_crop(models, adapter_options_.crops_coords_top_left_h, adapter_options_.crops_coords_top_left_w);
  const std::string misfit = adapter_misfit(adapter_->config(), models.unet->config(),
                                            LatentEncoder(models.vae).downsampling_factor());
  require<ConfigError>(misfit.empty(), "{}: {}", kT2IAdapterTask, misfit);
}

T2IAdapter T2IAdapterTask::make_adapter(const TextToImageModels& models) {
  complete_models(models, kT2IAdapterTask);
  return T2IAdapter(new_adapter_config(models.unet->config(), models.is_xl(),
                                       LatentEncoder(models.vae).downsampling_factor()));
}

void T2IAdapterTask::configure(const TrainingConfig& config) {
  TrainingConfig of_adapter = config;
  of_adapter.gradient_checkpointing = false;
  StableDiffusionTask::configure(of_adapter);
  if (config.gradient_checkpointing) make_saved_module(models().unet)->enable_gradient_checkpointing();
}

std::shared_ptr<const ForwardProcess> T2IAdapterTask::make_process(const Scheduler& scheduler,
                                                                   const DiffusionLossOptions& loss) const {
  return std::make_shared<SigmaProcess>(dynamic_cast<const EulerDiscreteScheduler&>(scheduler), loss);
}

void T2IAdapterTask::check_batch(const Batch& batch) {
  StableDiffusionTask::check_batch(batch);
  const T2IAdapterConfig& config = adapter_->config();
  const int64_t height = batch.images.size(2), width = batch.images.size(3);
  require<TensorError>(height % config.downscale_factor == 0 && width % config.downscale_factor == 0,
                       "images are {}, expected a height and a width that the downscale_factor of the "
                       "adapter, {}, divides",
                       describe(batch.images), config.downscale_factor);
  check_conditioning_images(batch, config.in_channels, "in_channels of the adapter");
}

Conditioning T2IAdapterTask::conditioning(const Batch& batch) {
  Conditioning conditioning = StableDiffusionTask::conditioning(
      with_crop(batch, adapter_options_.crops_coords_top_left_h, adapter_options_.crops_coords_top_left_w));
  conditioning.added_cond_kwargs.hint = batch.conditioning_images;
  return conditioning;
}

void T2IAdapterTask::save_extras(const std::filesystem::path& output_dir) const {
  DiffusionTask::save_extras(output_dir);
  models().scheduler->save_pretrained(output_dir / "scheduler");
  adapter_->save_pretrained(output_dir);
}

std::string T2IAdapterTask::config_json() const {
  return config_with_crop(StableDiffusionTask::config_json(), models().is_xl(),
                          adapter_options_.crops_coords_top_left_h, adapter_options_.crops_coords_top_left_w);
}

}  // namespace diffusers
