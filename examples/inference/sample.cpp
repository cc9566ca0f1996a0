// Samples images from a pipeline folder of Python diffusers or of this library: an unconditional pipeline, or
// Stable Diffusion with a prompt, and optionally a start image (--image), a mask (--mask) or ControlNets
// (--controlnet). An instruct-pix2pix folder edits --image.

#include <cstdio>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/ddim_pipeline.h>
#include <diffusers/pipelines/ddpm_pipeline.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/sampling_loop.h>

#include <ATen/ATen.h>

#include "../program.h"
#include "sample_flags.h"
#include "sample_prompt.h"

using namespace diffusers;

namespace {

Tensor sample_unconditional(DiffusionPipeline& loaded, const SampleSettings& settings) {
  const auto refuse_flag = [&](bool is_given, const char* flag) {
    refuse(is_given, std::string(flag) + " needs Stable Diffusion, found a " + loaded.class_name());
  };
  refuse_flag(settings.prompt.has_value(), "--prompt");
  refuse_flag(settings.guidance_scale.has_value(), "--guidance_scale");
  refuse_flag(settings.guess_mode, "--guess_mode");
  refuse_flag(!settings.controlnet_conditioning_scale.empty(), "--controlnet_conditioning_scale");
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
  const auto settings = parse_flags(sample_flags(), "Samples images from a pipeline folder", argc, argv);
  check_sample_flags(settings);
  const auto loaded =
      DiffusionPipeline::from_pretrained(settings.model, {.device = at::Device(settings.device)});
  const std::string& name = loaded->class_name();
  const bool is_unconditional = name == "DDPMPipeline" || name == "DDIMPipeline";
  refuse(
      !is_unconditional && !takes_prompt(name),
      settings.model + ": the pipeline is a " + name +
          ", expected a DDPMPipeline, a DDIMPipeline, or a pipeline of Stable Diffusion for text to image, "
          "image to image, inpainting, ControlNet or instruct-pix2pix");
  const Tensor images =
      is_unconditional ? sample_unconditional(*loaded, settings) : sample_with_prompt(*loaded, settings);
  save_pictures(images, settings.output);
  std::printf("%s\n", settings.output.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("sample", run, argc, argv); }
