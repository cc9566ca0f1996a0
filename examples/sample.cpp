// Draws a grid of pictures from a saved pipeline, of Python diffusers or of train_mnist.

#include <cstdio>
#include <optional>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/image.h>
#include <diffusers/pipelines/ddim_pipeline.h>
#include <diffusers/pipelines/ddpm_pipeline.h>

#include "program.h"

using namespace diffusers;

namespace {

int run(int argc, char** argv) {
  std::string model;
  std::string scheduler = "ddim";
  std::string device = "cpu";
  std::string output = "samples.png";
  int64_t num_images = 64;
  std::optional<int64_t> steps;
  std::optional<double> eta;
  uint64_t seed = 0;
  CLI::App app("Draws pictures from the folder of an unconditional pipeline");
  app.add_option("--model", model, "folder with model_index.json, unet/ and scheduler/")->required();
  app.add_option("--scheduler", scheduler)->check(CLI::IsMember({"ddpm", "ddim"}))->capture_default_str();
  app.add_option("--num_images", num_images)->capture_default_str();
  app.add_option("--num_inference_steps", steps, "default: 50 for ddim, 1000 for ddpm");
  app.add_option("--eta", eta, "ddim only: 0 (the default) draws no noise, 1 as much as ddpm");
  app.add_option("--seed", seed)->capture_default_str();
  add_device_flag(app, device);
  app.add_option("--output", output)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (eta && scheduler == "ddpm") throw ConfigError("--eta is for --scheduler ddim");

  const PipelineLoadOptions load = {.device = at::Device(device)};
  const Generator generator = make_generator(seed);
  Tensor images;
  if (scheduler == "ddim") {
    auto pipeline = DDIMPipeline::from_pretrained(model, load);
    images = pipeline({.batch_size = num_images,
                       .generator = generator,
                       .eta = eta.value_or(0),
                       .num_inference_steps = steps.value_or(50)})
                 .images;
  } else {
    auto pipeline = DDPMPipeline::from_pretrained(model, load);
    images =
        pipeline(
            {.batch_size = num_images, .generator = generator, .num_inference_steps = steps.value_or(1000)})
            .images;
  }
  save_image_grid(images, output);
  std::printf("%s\n", output.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("sample", run, argc, argv); }
