#include <utility>

#include <diffusers/training/text_to_image_task.h>

#include "core/json.h"
#include "core/require.h"
#include "training/tasks/lora_module.h"
#include "training/tasks/prior_preservation.h"
#include "training/tasks/text_to_image_folder.h"
#include "training/tasks/text_to_image_parts.h"

namespace diffusers {

TextToImageTask::TextToImageTask(const TextToImageModels& models, TextToImageTaskOptions options)
    : StableDiffusionTask("TextToImageTask", models, complete_models(models, "TextToImageTask").unet,
                          *training_scheduler(models, "TextToImageTask"),
                          {.proportion_empty_prompts = options.proportion_empty_prompts,
                           .cache_text_embeddings = options.cache_text_embeddings,
                           .train_unet = true,
                           .train_text_encoder = options.train_text_encoder,
                           .diffusion = options.diffusion},
                          "unet"),
      text_options_(std::move(options)),
      all_trained_(DiffusionTask::trained()) {
  require_prior_loss_weight(text_options_.prior_loss_weight);
  require_no_adapter(*this->models().unet.ptr(), "the unet");
  require_no_adapter(*this->models().text_encoder.ptr(), "the text_encoder");
  if (this->models().is_xl()) require_no_adapter(*this->models().text_encoder_2.ptr(), "the text_encoder_2");
  if (!text_options_.train_text_encoder) return;
  require<ConfigError>(!text_options_.cache_text_embeddings,
                       "cache_text_embeddings and train_text_encoder are both true, but the embeddings of "
                       "text encoders that are trained change in each step; expected at most one of them");
  for (NamedModule& encoder : text_encoders()) all_trained_.push_back(std::move(encoder));
}

void TextToImageTask::check_batch(const Batch& batch) {
  StableDiffusionTask::check_batch(batch);
  check_prior(batch, text_options_.prior_loss_weight);
}

StepLoss TextToImageTask::loss(const Batch& batch, std::size_t update) {
  StepLoss result = StableDiffusionTask::loss(batch, update);
  result.loss = weigh_prior(result.loss, batch.is_prior, text_options_.prior_loss_weight);
  return result;
}

void TextToImageTask::save_extras(const std::filesystem::path& output_dir) const {
  DiffusionTask::save_extras(output_dir);
  if (!text_options_.train_text_encoder) save_text_encoders(models(), output_dir);
  save_beside_text_to_image(models(), output_dir);
}

std::string TextToImageTask::config_json() const {
  Json json = parse_json(StableDiffusionTask::config_json(), "the config of the StableDiffusionTask");
  json["train_text_encoder"] = text_options_.train_text_encoder;
  json["prior_loss_weight"] = text_options_.prior_loss_weight;
  return dump_json(json);
}

}  // namespace diffusers
