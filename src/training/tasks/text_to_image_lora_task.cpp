#include <algorithm>
#include <utility>

#include <diffusers/models/lora_weights.h>
#include <diffusers/training/text_to_image_lora_task.h>

#include "core/json.h"
#include "core/require.h"
#include "models/layers/lora_metadata.h"
#include "training/tasks/lora_module.h"
#include "training/tasks/prior_preservation.h"
#include "training/tasks/text_to_image_parts.h"

namespace diffusers {
namespace {

constexpr const char* kLoraTask = "TextToImageLoraTask";

DiffusionTaskOptions lora_diffusion_options(const DiffusionTaskOptions& options) {
  require<ConfigError>(!options.conditioning,
                       "{}: diffusion.conditioning is set, but the task computes the conditioning of the "
                       "captions itself; override conditioning() to change it",
                       kLoraTask);
  return options;
}

TrainableDenoiser trainable_lora(const TextToImageModels& given, const TextToImageLoraTaskOptions& options) {
  const TextToImageModels models = complete_models(given, kLoraTask);
  UNet2DConditionModel unet = models.unet;
  ensure_adapter(*unet, options.unet_lora, "the unet");
  DenoiserInfo info = denoiser_info(unet);
  const auto adapter = unet->peft_config(unet->adapter_names().front());
  info.dropout = std::max(info.dropout, adapter.lora_dropout);
  auto saved = make_lora_module(unet.ptr(), "unet", {.unet = unet},
                                [unet]() mutable { unet->enable_gradient_checkpointing(); });
  return {std::move(saved), make_denoiser(unet), std::move(info)};
}

/// Adapters are float32, so that models in half precision compute in autocast.
void require_precision(const TextToImageModels& models, const TrainingConfig& config) {
  const auto require_autocast = [&](at::ScalarType dtype, MixedPrecision precision, const char* name) {
    for (const Tensor& parameter : models.unet->parameters())
      require<ConfigError>(parameter.scalar_type() != dtype || config.mixed_precision == precision,
                           "the unet is {}, expected mixed_precision \"{}\"", dtype_name(dtype), name);
  };
  require_autocast(at::kBFloat16, MixedPrecision::kBf16, "bf16");
  require_autocast(at::kHalf, MixedPrecision::kFp16, "fp16");
}

/// Adds the adapter of a text encoder.
template <class Encoder>
NamedModule text_lora(Encoder encoder, const char* name, const LoraConfig& config) {
  ensure_adapter(*encoder, config, name);
  SaveLoraWeightsOptions saved;
  (std::string_view(name) == "text_encoder" ? saved.text_encoder : saved.text_encoder_2) = encoder;
  return {std::string(name) + "_lora", make_lora_module(encoder.ptr(), name, saved, [encoder]() mutable {
            encoder->enable_gradient_checkpointing();
          })};
}

}  // namespace

TextToImageLoraTask::TextToImageLoraTask(TextToImageModels models, TextToImageLoraTaskOptions options)
    : DiffusionTask(trainable_lora(models, options), *training_scheduler(models, kLoraTask),
                    lora_diffusion_options(options.diffusion), "unet_lora"),
      models_(std::move(models)),
      lora_options_(std::move(options)),
      parts_(std::make_shared<TextToImageParts>(models_, lora_options_.train_text_encoder,
                                                lora_options_.proportion_empty_prompts)),
      all_trained_(DiffusionTask::trained()) {
  require_prior_loss_weight(lora_options_.prior_loss_weight);
  if (lora_options_.cache_text_embeddings) parts_->cache_text_embeddings();
  if (!lora_options_.train_text_encoder) return;
  require<ConfigError>(!lora_options_.cache_text_embeddings,
                       "cache_text_embeddings and train_text_encoder are both true, but the embeddings of "
                       "text encoders that are trained change in each step; expected at most one of them");
  all_trained_.push_back(text_lora(models_.text_encoder, "text_encoder", lora_options_.text_encoder_lora));
  if (models_.is_xl())
    all_trained_.push_back(
        text_lora(models_.text_encoder_2, "text_encoder_2", lora_options_.text_encoder_lora));
}

std::vector<NamedModule> TextToImageLoraTask::frozen() const {
  std::vector<NamedModule> modules = {parts_->encoder().frozen_module()};
  if (!lora_options_.train_text_encoder)
    for (NamedModule& encoder : parts_->text_encoders()) modules.push_back(std::move(encoder));
  return modules;
}

void TextToImageLoraTask::configure(const TrainingConfig& config) {
  require_precision(models_, config);
  DiffusionTask::configure(config);
  parts_->set_resolution(config.resolution);
  parts_->clear_text_embeddings();
  if (!config.gradient_checkpointing) return;
  for (std::size_t i = 1; i < all_trained_.size(); ++i)
    if (all_trained_[i].name.starts_with("text_encoder"))
      all_trained_[i].module->enable_gradient_checkpointing();
}

void TextToImageLoraTask::check_batch(const Batch& batch) {
  DiffusionTask::check_batch(batch);
  parts_->check_batch(batch);
  check_prior(batch, lora_options_.prior_loss_weight);
}

StepLoss TextToImageLoraTask::loss(const Batch& batch, std::size_t update) {
  StepLoss result = DiffusionTask::loss(batch, update);
  result.loss = weigh_prior(result.loss, batch.is_prior, lora_options_.prior_loss_weight);
  return result;
}

void TextToImageLoraTask::begin_step(const StepContext& context) {
  DiffusionTask::begin_step(context);
  parts_->begin_step(context);
}

Tensor TextToImageLoraTask::encode(const Batch& batch) { return parts_->encode(batch, std::nullopt); }

Tensor TextToImageLoraTask::encode_for_validation(const Batch& batch, const Generator& generator) {
  check_batch(batch);
  return parts_->encode(batch, generator);
}

DiffusionTask::Draw TextToImageLoraTask::draw(const Tensor& x0) {
  Draw drawn = DiffusionTask::draw(x0);
  parts_->draw_dropped(x0);
  return drawn;
}

Conditioning TextToImageLoraTask::conditioning(const Batch& batch) {
  return parts_->conditioning(batch, DiffusionTask::conditioning(batch));
}

void TextToImageLoraTask::save_pipeline_files(const std::filesystem::path&) const {}

void TextToImageLoraTask::save_extras(const std::filesystem::path& output_dir) const {
  DiffusionTask::save_extras(output_dir);
  SaveLoraWeightsOptions saved{.unet = models_.unet};
  if (lora_options_.train_text_encoder) {
    saved.text_encoder = models_.text_encoder;
    if (models_.is_xl()) saved.text_encoder_2 = models_.text_encoder_2;
  }
  save_lora_weights(output_dir, saved);
}

std::string TextToImageLoraTask::config_json() const {
  Json json = parse_json(DiffusionTask::config_json(), "the config of the DiffusionTask");
  json["_class_name"] = kLoraTask;
  json["proportion_empty_prompts"] = lora_options_.proportion_empty_prompts;
  json["prior_loss_weight"] = lora_options_.prior_loss_weight;
  const auto add = [&json](const char* prefix, const torch::nn::Module& model) {
    write_lora_metadata(json, prefix, detail::lora_config(model, detail::lora_names(model).front()));
  };
  add("unet", *models_.unet.ptr());
  if (lora_options_.train_text_encoder) {
    add("text_encoder", *models_.text_encoder.ptr());
    if (models_.is_xl()) add("text_encoder_2", *models_.text_encoder_2.ptr());
  }
  return dump_json(json);
}

}  // namespace diffusers
