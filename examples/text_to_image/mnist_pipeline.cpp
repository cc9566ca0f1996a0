#include "mnist_pipeline.h"

#include <algorithm>
#include <cstddef>
#include <optional>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/io/files.h>

#include <ATen/ATen.h>

#include "../stoppable_preview.h"

using namespace diffusers;

namespace {

constexpr std::size_t kSampleBatch = 100;  // samples that are drawn at once

}  // namespace

TextToImageModels load_digit_models(const std::string& folder, const DigitSettings& settings) {
  if (!file_exists(join_path(folder, "model_index.json")))
    throw FileError("--pretrained_model_name_or_path: " + folder +
                    " has no model_index.json, expected a folder that mnist_text_to_image wrote");
  TextToImageModels models =
      TextToImageModels::from_pretrained(folder, {.device = at::Device(settings.device)});
  if (models.vae->config().in_channels != 1)
    throw ConfigError("--pretrained_model_name_or_path: the autoencoder of " + folder + " has in_channels " +
                      std::to_string(models.vae->config().in_channels) + ", expected 1, as for gray images");
  return models;
}

TextToImageModels load_frozen(const std::string& folder, const DigitSettings& settings) {
  TextToImageModels models = load_digit_models(folder, settings);
  for (const auto& parameters :
       {models.unet->parameters(), models.text_encoder->parameters(), models.vae->parameters()})
    for (const Tensor& parameter : parameters) parameter.set_requires_grad(false);
  return models;
}

StableDiffusionPipeline digit_pipeline(const TextToImageModels& models) {
  StableDiffusionPipeline pipeline(models.vae, models.text_encoder, models.tokenizer, models.unet,
                                   *models.scheduler);
  pipeline.set_progress_bar_config({.disable = true});
  return pipeline;
}

Tensor draw_digits(StableDiffusionPipeline& pipeline, const std::vector<std::string>& prompts,
                   const DigitSettings& settings, const DrawOptions& options) {
  const Generator generator = make_generator(options.seed);
  std::vector<Tensor> images;
  for (std::size_t first = 0; first < prompts.size(); first += kSampleBatch) {
    const std::size_t last = std::min(first + kSampleBatch, prompts.size());
    const std::vector<std::string> part(prompts.begin() + static_cast<std::ptrdiff_t>(first),
                                        prompts.begin() + static_cast<std::ptrdiff_t>(last));
    const Tensor drawn = pipeline({.prompt = part,
                                   .num_inference_steps = settings.num_inference_steps,
                                   .guidance_scale = settings.guidance_scale,
                                   .generator = generator,
                                   .callback_on_step_end = stop_sampling_if(options.stop_requested)})
                             .images;
    images.push_back(drawn.to(at::kCPU, at::kFloat));
  }
  return at::cat(images);
}

Tensor draw_digits(const TextToImageModels& models, const std::vector<std::string>& prompts,
                   const DigitSettings& settings, const DrawOptions& options) {
  StableDiffusionPipeline pipeline = digit_pipeline(models);
  return draw_digits(pipeline, prompts, settings, options);
}

bool are_equal(const TensorMap& a, const TensorMap& b) {
  return a.size() == b.size() && std::all_of(a.begin(), a.end(), [&](const auto& item) {
           return b.contains(item.first) && at::equal(item.second, b.at(item.first));
         });
}
