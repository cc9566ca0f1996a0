#include "sample_prompt.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/io/image.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/multi_controlnet.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/lora_loader.h>
#include <diffusers/pipelines/stable_diffusion_controlnet_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_img2img_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_inpaint_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_instruct_pix2pix_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_img2img_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_pipeline.h>
#include <diffusers/pipelines/textual_inversion_loader.h>

#include <ATen/ATen.h>

using namespace diffusers;

namespace {

Tensor read_image(const std::string& path, int64_t channels, const SampleSettings& settings) {
  return load_image(path, {.range = "unit", .channels = channels, .exif_transpose = true})
      .to(at::Device(settings.device));
}

/// Sets the options that all pipelines have. A flag that is not given leaves the default of the class.
template <class Options>
Options prompt_options(const SampleSettings& settings) {
  Options options;
  options.prompt = *settings.prompt;
  if (settings.num_inference_steps) options.num_inference_steps = *settings.num_inference_steps;
  if (settings.guidance_scale) options.guidance_scale = *settings.guidance_scale;
  if (settings.negative_prompt) options.negative_prompt = *settings.negative_prompt;
  options.num_images_per_prompt = settings.num_images.value_or(1);
  options.eta = settings.eta.value_or(0);
  options.generator = make_generator(settings.seed);
  return options;
}

/// Sets the options of the pipelines that start from an image.
template <class Options>
Options image_options(const SampleSettings& settings) {
  auto options = prompt_options<Options>(settings);
  options.image = read_image(settings.images.front(), 3, settings);
  if (settings.strength) options.strength = *settings.strength;
  return options;
}

/// Draws with a pipeline of another class that shares the models.
/// @param added components that the loaded pipeline lacks
template <class Pipeline, class Options>
Tensor draw_with(DiffusionPipeline& loaded, const SampleSettings& settings, const Options& options,
                 PipelineComponents added = {}) {
  auto pipeline = Pipeline::from_pipe(loaded, std::move(added));
  pipeline.set_scheduler(*choose_scheduler(loaded.scheduler(), settings));
  return pipeline(options).images;
}

/// Loads the LoRA files into the models, which all pipelines made from this one share.
void load_loras(DiffusionPipeline& loaded, const SampleSettings& settings) {
  if (settings.loras.empty()) return;
  auto* loader = dynamic_cast<LoraLoader*>(&loaded);
  refuse(loader == nullptr, "--lora needs Stable Diffusion, found a " + loaded.class_name());
  std::vector<std::string> names;
  for (const std::string& path : settings.loras) names.push_back(loader->load_lora_weights(path));
  std::vector<double> scales = settings.lora_scale;
  if (scales.size() == 1) scales.resize(names.size(), scales.front());
  loader->set_adapters(names, scales);
}

/// Loads the textual inversions into the tokenizers and text encoders.
void load_textual_inversions(DiffusionPipeline& loaded, const SampleSettings& settings) {
  if (settings.textual_inversions.empty()) return;
  auto* loader = dynamic_cast<TextualInversionLoader*>(&loaded);
  refuse(loader == nullptr, "--textual_inversion needs Stable Diffusion, found a " + loaded.class_name());
  for (const std::string& path : settings.textual_inversions) loader->load_textual_inversion(path);
}

/// Edits a picture by the prompt.
Tensor sample_edited(DiffusionPipeline& loaded, const SampleSettings& settings) {
  refuse(settings.images.empty(), "--image is missing; " + settings.model + " edits pictures");
  refuse(settings.mask.has_value(), "--mask needs inpainting, found a " + loaded.class_name());
  refuse(settings.strength.has_value(), "--strength has no effect on a " + loaded.class_name() +
                                            "; --image_guidance_scale says how much of the picture is kept");
  refuse(!settings.controlnets.empty(), "--controlnet needs text to image, found a " + loaded.class_name());
  auto options = prompt_options<StableDiffusionInstructPix2PixPipelineOptions>(settings);
  options.image = read_image(settings.images.front(), 3, settings);
  if (settings.image_guidance_scale) options.image_guidance_scale = *settings.image_guidance_scale;
  return draw_with<StableDiffusionInstructPix2PixPipeline>(loaded, settings, options);
}

/// Returns the ControlNets of the flags as a component; none: an empty map.
PipelineComponents given_controlnets(const SampleSettings& settings) {
  std::vector<ControlNetModel> nets;
  nets.reserve(settings.controlnets.size());
  for (const std::string& folder : settings.controlnets)
    nets.push_back(ControlNetModel::from_pretrained(folder, {.device = at::Device(settings.device)}));
  if (nets.empty()) return {};
  if (nets.size() == 1) return {{"controlnet", nets.front()}};
  return {{"controlnet", MultiControlNetModel(nets)}};
}

Tensor sample_controlled(DiffusionPipeline& loaded, const SampleSettings& settings) {
  auto pipeline = StableDiffusionControlNetPipeline::from_pipe(loaded, given_controlnets(settings));
  pipeline.set_scheduler(*choose_scheduler(loaded.scheduler(), settings));
  const std::vector<ControlNetModel> nets = pipeline.controlnets();
  check_control_flags(settings, nets.size());
  auto options = prompt_options<StableDiffusionControlNetPipelineOptions>(settings);
  std::vector<Tensor> images;
  for (std::size_t i = 0; i < nets.size(); ++i)
    images.push_back(
        read_image(settings.images[i], nets[i]->config().conditioning_channels == 1 ? 1 : 3, settings));
  options.image = images;
  const std::vector<double>& scales = settings.controlnet_conditioning_scale;
  if (scales.size() == 1) options.controlnet_conditioning_scale = scales.front();
  if (scales.size() > 1) options.controlnet_conditioning_scale = scales;
  options.guess_mode = settings.guess_mode;
  return pipeline(options).images;
}

Tensor sample_xl(DiffusionPipeline& loaded, const SampleSettings& settings) {
  refuse(settings.mask.has_value(),
         "--mask needs Stable Diffusion 1.x or 2.x, found a " + loaded.class_name());
  refuse(!settings.controlnets.empty(),
         "--controlnet needs Stable Diffusion 1.x or 2.x, found a " + loaded.class_name());
  if (!settings.images.empty())
    return draw_with<StableDiffusionXLImg2ImgPipeline>(
        loaded, settings, image_options<StableDiffusionXLImg2ImgPipelineOptions>(settings));
  const auto* redraws = dynamic_cast<const StableDiffusionXLImg2ImgPipeline*>(&loaded);
  refuse(redraws != nullptr && redraws->requires_aesthetics_score(),
         "--image is missing; " + settings.model + " is a refiner, which changes pictures");
  return draw_with<StableDiffusionXLPipeline>(loaded, settings,
                                              prompt_options<StableDiffusionXLPipelineOptions>(settings));
}

/// Refuses flags of ControlNets where there is none.
void check_uncontrolled(const SampleSettings& settings) {
  refuse(settings.guess_mode, "--guess_mode needs --controlnet");
  refuse(!settings.controlnet_conditioning_scale.empty(),
         "--controlnet_conditioning_scale needs --controlnet");
  refuse(settings.images.size() > 1, "--image has " + std::to_string(settings.images.size()) +
                                         " files, expected one; several need as many --controlnet");
}

}  // namespace

bool takes_prompt(const std::string& class_name) {
  static const std::vector<std::string> classes = {"StableDiffusionPipeline",
                                                   "StableDiffusionImg2ImgPipeline",
                                                   "StableDiffusionInpaintPipeline",
                                                   "StableDiffusionControlNetPipeline",
                                                   "StableDiffusionXLPipeline",
                                                   "StableDiffusionXLImg2ImgPipeline",
                                                   "StableDiffusionInstructPix2PixPipeline"};
  return std::ranges::find(classes, class_name) != classes.end();
}

Tensor sample_with_prompt(DiffusionPipeline& loaded, const SampleSettings& settings) {
  refuse(!settings.prompt, "--prompt is missing; " + settings.model + " is a " + loaded.class_name());
  load_loras(loaded, settings);
  load_textual_inversions(loaded, settings);
  const bool edits = loaded.class_name() == "StableDiffusionInstructPix2PixPipeline";
  refuse(settings.image_guidance_scale && !edits,
         "--image_guidance_scale needs an instruct-pix2pix folder, found a " + loaded.class_name());
  const bool has_controlnet = !settings.controlnets.empty() || loaded.components().contains("controlnet");
  if (!has_controlnet) check_uncontrolled(settings);
  if (edits) return sample_edited(loaded, settings);
  if (loaded.class_name().starts_with("StableDiffusionXL")) return sample_xl(loaded, settings);

  const int64_t channels = loaded.component<UNet2DConditionModel>("unet")->config().in_channels;
  const int64_t latents = loaded.component<AutoencoderKL>("vae")->config().latent_channels;
  refuse(has_controlnet && channels != latents, "--controlnet needs a UNet with " + std::to_string(latents) +
                                                    " input channels, found " + std::to_string(channels));
  if (has_controlnet) return sample_controlled(loaded, settings);
  refuse(channels == 2 * latents + 1 && !settings.mask, "--image and --mask are missing; the UNet has " +
                                                            std::to_string(channels) +
                                                            " input channels and repaints pictures");
  if (settings.mask) {
    auto options = image_options<StableDiffusionInpaintPipelineOptions>(settings);
    options.mask_image = read_image(*settings.mask, 1, settings);
    return draw_with<StableDiffusionInpaintPipeline>(loaded, settings, options);
  }
  if (!settings.images.empty())
    return draw_with<StableDiffusionImg2ImgPipeline>(
        loaded, settings, image_options<StableDiffusionImg2ImgPipelineOptions>(settings));
  return draw_with<StableDiffusionPipeline>(loaded, settings,
                                            prompt_options<StableDiffusionPipelineOptions>(settings));
}
