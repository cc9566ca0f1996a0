// Samples images from a pipeline folder of Python diffusers or of this library: an unconditional pipeline, or
// Stable Diffusion with a prompt and optionally a start image (--image).

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/ddim_pipeline.h>
#include <diffusers/pipelines/ddpm_pipeline.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/sampling_loop.h>
#include <diffusers/pipelines/stable_diffusion_img2img_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>

#include <ATen/ATen.h>

#include "../flags.h"
#include "../program.h"
#include "schedulers_by_name.h"

using namespace diffusers;

namespace {

struct Settings {
  std::string model;
  std::optional<std::string> prompt;
  std::optional<std::string> negative_prompt;
  std::optional<std::string> image;
  std::optional<double> strength;
  std::optional<std::string> scheduler;
  std::optional<int64_t> num_inference_steps;
  std::optional<double> guidance_scale;
  std::optional<double> eta;
  std::optional<int64_t> num_images;
  uint64_t seed = 0;
  std::string device = "cpu";
  std::string output = "samples.png";
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Model",
       {{"--model", &Settings::model, "Pipeline folder, with model_index.json.", {.required = true}},
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
        {"--image", &Settings::image, "PNG or JPEG file to start from. Needs --prompt."},
        {"--strength",
         &Settings::strength,
         "How much of --image is changed: 1 replaces it, 0 (excluded) keeps it.",
         {.check = between(0, 1), .default_text = "0.8"}}}},
      {"Sampling",
       {{"--seed", &Settings::seed, "Seed of the noise."},
        {"--num_inference_steps",
         &Settings::num_inference_steps,
         "Number of denoising steps.",
         {.check = at_least(1), .default_text = "50; 1000 for an unconditional DDPMScheduler"}},
        {"--guidance_scale",
         &Settings::guidance_scale,
         "Scale of the classifier-free guidance. 1 or less disables it. Needs --prompt.",
         {.check = at_least(0), .default_text = "7.5"}},
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

/// Returns the scheduler of the flags: that of the pipeline, or another one made from its config.
std::unique_ptr<Scheduler> choose_scheduler(const Scheduler& own, const Settings& settings) {
  auto scheduler = settings.scheduler ? scheduler_by_name(*settings.scheduler, own) : own.clone();
  const std::string name = scheduler->class_name();
  refuse(settings.eta && name != "DDIMScheduler" && name != "TCDScheduler",
         "--eta needs --scheduler ddim or tcd, found " + name);
  return scheduler;
}

Tensor sample_unconditional(DiffusionPipeline& loaded, const Settings& settings) {
  const auto refuse_flag = [&](bool is_given, const char* flag) {
    refuse(is_given, std::string(flag) + " needs Stable Diffusion, found a " + loaded.class_name());
  };
  refuse_flag(settings.prompt.has_value(), "--prompt");
  refuse_flag(settings.guidance_scale.has_value(), "--guidance_scale");
  UNet2DModel& unet = loaded.component<UNet2DModel>("unet");
  const auto scheduler = choose_scheduler(loaded.scheduler(), settings);
  const std::string name = scheduler->class_name();
  const int64_t count = settings.num_images.value_or(64);
  const int64_t steps = settings.num_inference_steps.value_or(name == "DDPMScheduler" ? 1000 : 50);
  const Generator generator = make_generator(settings.seed);
  if (name == "DDIMScheduler")
    return DDIMPipeline(unet, *scheduler)({.batch_size = count,
                                           .generator = generator,
                                           .eta = settings.eta.value_or(0),
                                           .num_inference_steps = steps})
        .images;
  if (name == "DDPMScheduler")
    return DDPMPipeline(
               unet, *scheduler)({.batch_size = count, .generator = generator, .num_inference_steps = steps})
        .images;

  // DDPMPipeline does not scale the input, which other schedulers require.
  const at::Device device(settings.device);
  scheduler->set_timesteps(steps, {.device = device});
  const std::vector<int64_t> size = unet->config().sample_size.expand(2);
  const Tensor noise = randn_tensor({count, unet->config().in_channels, size[0], size[1]}, generator, device);
  SamplingLoopOptions options{.step = {.generator = generator}};
  if (settings.eta) options.step.eta = *settings.eta;
  const Tensor images = sampling_loop(
      *scheduler, [&](const Tensor& x, const Tensor& t) { return unet->forward(x, t).sample; },
      noise * scheduler->init_noise_sigma(), options);
  return (images / 2 + 0.5).clamp(0, 1);
}

/// Sets the options that text-to-image and image-to-image have in common.
template <class Options>
Options prompt_options(const Settings& settings) {
  Options options;
  options.prompt = *settings.prompt;
  options.num_inference_steps = settings.num_inference_steps.value_or(50);
  options.guidance_scale = settings.guidance_scale.value_or(7.5);
  options.negative_prompt = settings.negative_prompt.value_or("");
  options.num_images_per_prompt = settings.num_images.value_or(1);
  options.eta = settings.eta.value_or(0);
  options.generator = make_generator(settings.seed);
  return options;
}

Tensor sample_with_prompt(DiffusionPipeline& loaded, const Settings& settings) {
  refuse(!settings.prompt, "--prompt is missing; " + settings.model + " is a " + loaded.class_name());
  const auto scheduler = choose_scheduler(loaded.scheduler(), settings);
  if (!settings.image) {
    StableDiffusionPipeline pipeline(loaded.components());
    pipeline.set_scheduler(*scheduler);
    return pipeline(prompt_options<StableDiffusionPipelineOptions>(settings)).images;
  }
  auto options = prompt_options<StableDiffusionImg2ImgPipelineOptions>(settings);
  options.image = load_image(*settings.image, {.range = "unit", .channels = 3, .exif_transpose = true})
                      .to(at::Device(settings.device));
  options.strength = settings.strength.value_or(0.8);
  StableDiffusionImg2ImgPipeline pipeline(loaded.components());
  pipeline.set_scheduler(*scheduler);
  return pipeline(options).images;
}

void save_pictures(const Tensor& images, const std::string& output) {
  if (!output.ends_with(".png")) {
    create_folders(output);
    for (int64_t i = 0; i < images.size(0); ++i)
      save_image(images[i], join_path(output, std::to_string(i) + ".png"));
    return;
  }
  create_folders(parent_folder(output));
  if (images.size(0) == 1) {
    save_image(images[0], output);
  } else {
    save_image_grid(images, output);
  }
}

int run(int argc, char** argv) {
  const Settings settings = parse_flags(flags(), "Samples images from a pipeline folder", argc, argv);
  refuse(settings.negative_prompt && !settings.prompt, "--negative_prompt needs --prompt");
  refuse(settings.image && !settings.prompt, "--image needs --prompt");
  refuse(settings.strength && !settings.image, "--strength needs --image");
  refuse(settings.strength && *settings.strength == 0, "--strength is 0, expected more than 0 and at most 1");

  const auto loaded =
      DiffusionPipeline::from_pretrained(settings.model, {.device = at::Device(settings.device)});
  const std::string& name = loaded->class_name();
  const bool is_unconditional = name == "DDPMPipeline" || name == "DDIMPipeline";
  refuse(!is_unconditional && name != "StableDiffusionPipeline" && name != "StableDiffusionImg2ImgPipeline",
         settings.model + ": the pipeline is a " + name +
             ", expected a DDPMPipeline, DDIMPipeline, StableDiffusionPipeline or "
             "StableDiffusionImg2ImgPipeline");
  const Tensor images =
      is_unconditional ? sample_unconditional(*loaded, settings) : sample_with_prompt(*loaded, settings);
  save_pictures(images, settings.output);
  std::printf("%s\n", settings.output.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("sample", run, argc, argv); }
