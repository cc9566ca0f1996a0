#include "sample_flags.h"

#include <diffusers/core/error.h>

#include "schedulers_by_name.h"

using namespace diffusers;

const FlagTable<SampleSettings>& sample_flags() {
  using Settings = SampleSettings;
  static const FlagTable<Settings> table{
      {"Model",
       {{"--model", &Settings::model, "Pipeline folder, with model_index.json.", {.required = true}},
        {"--controlnet", &Settings::controlnets,
         "Folders of ControlNets, whose residuals are added. Needs --prompt and an --image for each."},
        {"--lora", &Settings::loras,
         "LoRA files, or folders with one: of diffusers, PEFT or kohya-ss. Several are added up. Needs "
         "--prompt."},
        {"--lora_scale",
         &Settings::lora_scale,
         "Factor of the LoRA files: one for all or one each.",
         {.check = between(-100, 100), .default_text = "1"}},
        {"--textual_inversion", &Settings::textual_inversions,
         "Textual-inversion files, or folders with one: of diffusers or AUTOMATIC1111's web UI. Prompts can "
         "use their tokens. Needs --prompt."},
        {"--scheduler",
         &Settings::scheduler,
         "Scheduler, made from the config of the pipeline's own: " + scheduler_names() + ", or a class name.",
         {.default_text = "the pipeline's own"}},
        {"--device",
         &Settings::device,
         "Device of the model: cpu, cuda or cuda:INDEX.",
         {.check = available_device()}}}},
      {"Input",
       {{"--prompt", &Settings::prompt, "Text that describes the images. Stable Diffusion only."},
        {"--negative_prompt", &Settings::negative_prompt,
         "Text that describes what the images must not show. Needs --prompt."},
        {"--image", &Settings::images,
         "PNG or JPEG file to start from, or to repaint with --mask. With --controlnet: the conditioning "
         "image of each ControlNet. With an instruct-pix2pix folder: the picture that --prompt edits. Needs "
         "--prompt."},
        {"--mask", &Settings::mask,
         "PNG or JPEG file of the size of --image, white where the image is repainted. The image is resized "
         "to the size of the model."},
        {"--strength",
         &Settings::strength,
         "How much of --image is changed: 1 replaces it, 0 (excluded) keeps it.",
         {.check = between(0, 1), .default_text = "0.8; 0.3 for Stable Diffusion XL; 1 with --mask"}},
        {"--controlnet_conditioning_scale",
         &Settings::controlnet_conditioning_scale,
         "Factor of the residuals: one for all ControlNets or one each.",
         {.check = at_least(0), .default_text = "1"}},
        {"--guess_mode", &Settings::guess_mode,
         "Run the ControlNets without the prompt, and with residuals that grow with the depth."}}},
      {"Sampling",
       {{"--seed", &Settings::seed, "Seed of the noise."},
        {"--num_inference_steps",
         &Settings::num_inference_steps,
         "Number of denoising steps.",
         {.check = at_least(1),
          .default_text = "50; 100 for instruct-pix2pix; 1000 for an unconditional DDPMScheduler"}},
        {"--guidance_scale",
         &Settings::guidance_scale,
         "Scale of the classifier-free guidance. 1 or less disables it. Needs --prompt.",
         {.check = at_least(0), .default_text = "7.5; 5 for Stable Diffusion XL"}},
        {"--image_guidance_scale",
         &Settings::image_guidance_scale,
         "How much of --image an instruct-pix2pix pipeline keeps: larger values keep more.",
         {.check = at_least(0), .default_text = "1.5"}},
        {"--eta",
         &Settings::eta,
         "Noise of DDIMScheduler and TCDScheduler: 0 adds none, 1 as much as DDPM.",
         {.check = between(0, 1), .default_text = "0"}}}},
      {"Output",
       {{"--num_images",
         &Settings::num_images,
         "Number of images.",
         {.check = at_least(1), .default_text = "64; 1 with --prompt"}},
        {"--output", &Settings::output,
         "A .png file for the image, or for a grid of several images. Any other name: a folder for 0.png, "
         "1.png, ..."}}},
  };
  return table;
}

void refuse(bool is_wrong, const std::string& message) {
  if (is_wrong) throw ConfigError(message);
}

void check_sample_flags(const SampleSettings& settings) {
  const bool has_image = !settings.images.empty();
  refuse(settings.negative_prompt && !settings.prompt, "--negative_prompt needs --prompt");
  refuse(has_image && !settings.prompt, "--image needs --prompt");
  refuse(settings.mask && !has_image, "--mask needs --image");
  refuse(settings.strength && !has_image, "--strength needs --image");
  refuse(settings.strength && *settings.strength == 0, "--strength is 0, expected more than 0 and at most 1");
  refuse(!settings.loras.empty() && !settings.prompt, "--lora needs --prompt");
  refuse(!settings.textual_inversions.empty() && !settings.prompt, "--textual_inversion needs --prompt");
  refuse(settings.image_guidance_scale && !has_image, "--image_guidance_scale needs --image");
  const std::size_t scales = settings.lora_scale.size();
  refuse(scales > 0 && settings.loras.empty(), "--lora_scale needs --lora");
  refuse(scales > 1 && scales != settings.loras.size(),
         "--lora_scale has " + std::to_string(scales) + " numbers, expected one or " +
             std::to_string(settings.loras.size()) + ", the number of --lora");
  if (settings.controlnets.empty()) return;
  refuse(!settings.prompt, "--controlnet needs --prompt");
  check_control_flags(settings, settings.controlnets.size());
}

void check_control_flags(const SampleSettings& settings, std::size_t nets) {
  refuse(settings.mask.has_value(),
         "--mask and ControlNets exclude each other: --image is a conditioning image");
  refuse(settings.strength.has_value(),
         "--strength and ControlNets exclude each other: --image is a conditioning image");
  refuse(settings.images.size() != nets, "--image has " + std::to_string(settings.images.size()) +
                                             " files, expected one for each of " + std::to_string(nets) +
                                             " ControlNets");
  const std::size_t scales = settings.controlnet_conditioning_scale.size();
  refuse(scales > 1 && scales != nets, "--controlnet_conditioning_scale has " + std::to_string(scales) +
                                           " values, expected one for all or one for each of " +
                                           std::to_string(nets) + " ControlNets");
}

std::unique_ptr<Scheduler> choose_scheduler(const Scheduler& own, const SampleSettings& settings) {
  auto scheduler = settings.scheduler ? scheduler_by_name(*settings.scheduler, own) : own.clone();
  const std::string name = scheduler->class_name();
  refuse(settings.eta && name != "DDIMScheduler" && name != "TCDScheduler",
         "--eta needs --scheduler ddim or tcd, found " + name);
  return scheduler;
}
