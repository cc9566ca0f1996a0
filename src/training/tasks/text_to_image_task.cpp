#include <utility>

#include <diffusers/training/text_to_image_task.h>

#include "core/json.h"
#include "core/require.h"
#include "training/tasks/text_to_image_folder.h"
#include "training/tasks/text_to_image_parts.h"

namespace diffusers {
namespace {

DiffusionTaskOptions without_conditioning(const DiffusionTaskOptions& options, const char* task) {
  require<ConfigError>(!options.conditioning,
                       "{}: diffusion.conditioning is set, but the task computes the conditioning of the "
                       "captions itself; override conditioning() to change it",
                       task);
  return options;
}

}  // namespace

TextToImageTask::TextToImageTask(TextToImageModels models, TextToImageTaskOptions options)
    : DiffusionTask(complete_models(models, "TextToImageTask").unet,
                    *training_scheduler(models, "TextToImageTask"),
                    without_conditioning(options.diffusion, "TextToImageTask")),
      models_(std::move(models)),
      text_options_(std::move(options)),
      parts_(std::make_shared<TextToImageParts>(models_, text_options_.train_text_encoder,
                                                text_options_.proportion_empty_prompts)),
      all_trained_(DiffusionTask::trained()) {
  if (text_options_.cache_text_embeddings) parts_->cache_text_embeddings();
  if (!text_options_.train_text_encoder) return;
  require<ConfigError>(!text_options_.cache_text_embeddings,
                       "cache_text_embeddings and train_text_encoder are both true, but the embeddings of "
                       "text encoders that are trained change in each step; expected at most one of them");
  for (NamedModule& encoder : parts_->text_encoders()) all_trained_.push_back(std::move(encoder));
}

std::vector<NamedModule> TextToImageTask::frozen() const {
  std::vector<NamedModule> modules = {parts_->encoder().frozen_module()};
  if (!text_options_.train_text_encoder)
    for (NamedModule& encoder : parts_->text_encoders()) modules.push_back(std::move(encoder));
  return modules;
}

void TextToImageTask::configure(const TrainingConfig& config) {
  DiffusionTask::configure(config);
  parts_->set_resolution(config.resolution);
  parts_->clear_text_embeddings();
  if (config.gradient_checkpointing && text_options_.train_text_encoder)
    for (const NamedModule& encoder : parts_->text_encoders())
      encoder.module->enable_gradient_checkpointing();
}

BatchSplit TextToImageTask::batch_split() const {
  BatchSplit split = DiffusionTask::batch_split();
  split.downsampling_factor = parts_->encoder().downsampling_factor();
  return split;
}

void TextToImageTask::check_batch(const Batch& batch) {
  DiffusionTask::check_batch(batch);
  parts_->check_batch(batch);
}

void TextToImageTask::begin_step(const StepContext& context) {
  DiffusionTask::begin_step(context);
  parts_->begin_step(context);
}

Tensor TextToImageTask::encode(const Batch& batch) { return parts_->encode(batch, validation_generator_); }

DiffusionTask::Draw TextToImageTask::draw(const Tensor& x0) {
  Draw drawn = DiffusionTask::draw(x0);
  parts_->draw_dropped(x0);
  return drawn;
}

Conditioning TextToImageTask::conditioning(const Batch& batch) {
  return parts_->conditioning(batch, DiffusionTask::conditioning(batch));
}

Tensor TextToImageTask::validation_loss(const Batch& batch, const Tensor& positions,
                                        const Generator& generator) {
  parts_->check_batch(batch);
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

void TextToImageTask::save_extras(const std::filesystem::path& output_dir) const {
  DiffusionTask::save_extras(output_dir);
  if (!text_options_.train_text_encoder) save_text_encoders(models_, output_dir);
  save_beside_text_to_image(models_, output_dir);
}

std::string TextToImageTask::config_json() const {
  Json json = parse_json(DiffusionTask::config_json(), "the config of the DiffusionTask");
  json["_class_name"] = "TextToImageTask";
  json["train_text_encoder"] = text_options_.train_text_encoder;
  json["proportion_empty_prompts"] = text_options_.proportion_empty_prompts;
  return dump_json(json);
}

}  // namespace diffusers
