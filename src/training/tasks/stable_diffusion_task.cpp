#include <utility>

#include <diffusers/training/stable_diffusion_task.h>

#include <c10/util/ScopeExit.h>

#include "core/json.h"
#include "core/require.h"
#include "training/tasks/text_to_image_parts.h"

namespace diffusers {
namespace {

const DiffusionTaskOptions& without_conditioning(const DiffusionTaskOptions& options,
                                                 const std::string& task) {
  require<ConfigError>(!options.conditioning,
                       "{}: diffusion.conditioning is set, but the task computes the conditioning of the "
                       "captions itself; override conditioning() to change it",
                       task);
  return options;
}

}  // namespace

StableDiffusionTask::StableDiffusionTask(const std::string& class_name, const TextToImageModels& models,
                                         TrainableDenoiser model, const Scheduler& scheduler,
                                         const StableDiffusionTaskOptions& options, std::string name)
    : DiffusionTask(std::move(model), scheduler, without_conditioning(options.diffusion, class_name),
                    std::move(name)),
      class_name_(class_name),
      models_(complete_models(models, class_name.c_str())),
      caption_options_(options),
      parts_(std::make_shared<TextToImageParts>(models_, options.train_text_encoder,
                                                options.proportion_empty_prompts, options.extra_channels)) {
  if (caption_options_.cache_text_embeddings) parts_->cache_text_embeddings();
}

std::vector<NamedModule> StableDiffusionTask::text_encoders() const { return parts_->text_encoders(); }
void StableDiffusionTask::drop_captions(const Tensor& dropped) { parts_->set_dropped(dropped); }
const LatentEncoder& StableDiffusionTask::latent_encoder() const { return parts_->encoder(); }

std::vector<NamedModule> StableDiffusionTask::frozen() const {
  std::vector<NamedModule> modules;
  if (!caption_options_.train_text_encoder) modules = text_encoders();
  modules.push_back(parts_->encoder().frozen_module());
  if (!caption_options_.train_unet)
    modules.push_back({"unet", make_saved_module(models_.unet), /*is_averaged=*/false});
  return modules;
}

void StableDiffusionTask::configure(const TrainingConfig& config) {
  DiffusionTask::configure(config);
  parts_->set_resolution(config.resolution);
  parts_->clear_text_embeddings();
  if (!config.gradient_checkpointing) return;
  if (!caption_options_.train_unet) make_saved_module(models_.unet)->enable_gradient_checkpointing();
  if (caption_options_.train_text_encoder)
    for (const NamedModule& encoder : text_encoders()) encoder.module->enable_gradient_checkpointing();
}

BatchSplit StableDiffusionTask::batch_split() const {
  BatchSplit split = DiffusionTask::batch_split();
  split.downsampling_factor = parts_->encoder().downsampling_factor();
  return split;
}

void StableDiffusionTask::check_batch(const Batch& batch) {
  DiffusionTask::check_batch(batch);
  parts_->check_batch(batch);
}

void StableDiffusionTask::begin_step(const StepContext& context) {
  DiffusionTask::begin_step(context);
  parts_->begin_step(context);
}

Tensor StableDiffusionTask::encode(const Batch& batch) {
  return parts_->encode(batch, validation_generator_);
}

Tensor StableDiffusionTask::encode_for_validation(const Batch& batch, const Generator& generator) {
  check_batch(batch);
  validation_generator_ = generator;
  const auto reset = c10::make_scope_exit([this] { validation_generator_.reset(); });
  return encode(batch);
}

DiffusionTask::Draw StableDiffusionTask::draw(const Tensor& x0) {
  Draw drawn = DiffusionTask::draw(x0);
  parts_->draw_dropped(x0);
  return drawn;
}

Conditioning StableDiffusionTask::conditioning(const Batch& batch) {
  return parts_->conditioning(batch, DiffusionTask::conditioning(batch));
}

std::string StableDiffusionTask::config_json() const {
  Json json = parse_json(DiffusionTask::config_json(), "the config of the DiffusionTask");
  json["_class_name"] = class_name_;
  json["proportion_empty_prompts"] = caption_options_.proportion_empty_prompts;
  return dump_json(json);
}

}  // namespace diffusers
