// Fine-tunes Stable Diffusion 1.x, 2.x or XL on a few images of an instance, as diffusers'
// train_dreambooth.py does, and writes a pipeline folder. With prior preservation it also trains on images of
// the instance's class, which it generates if there are too few.

#include <cstdio>
#include <memory>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/training/text_to_image_task.h>
#include <diffusers/training/trainer.h>

#include "../program.h"
#include "../training_group.h"
#include "dreambooth_flags.h"

using namespace diffusers;

namespace {

// Numbers of the script.
constexpr double kOffsetNoise = 0.1;
constexpr int64_t kValidationSteps = 100;
constexpr int64_t kPreviewSteps = 25;

struct Settings {
  bool offset_noise = false;
  std::string validation_scheduler = "DPMSolverMultistepScheduler";
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Loss", {{"--offset_noise", &Settings::offset_noise, "The same as --noise_offset 0.1."}}},
      {"Validation",
       {{"--validation_scheduler",
         &Settings::validation_scheduler,
         "Scheduler that draws the pictures.",
         {.check = CLI::IsMember({"DPMSolverMultistepScheduler", "DDPMScheduler"})}}}},
  };
  return table;
}

std::vector<RefusedFlag> refused() {
  std::vector<RefusedFlag> flags = refused_dreambooth_flags();
  flags.push_back({"--skip_save_text_encoder", "the output folder is always a complete pipeline"});
  return flags;
}

int run(int argc, char** argv) {
  StableDiffusionSettings shared;
  set_dreambooth_defaults(shared.training);
  shared.training.output_dir = "dreambooth-model";
  shared.training.learning_rate = 5e-6;
  shared.training.validation_steps = kValidationSteps;
  DreamBoothSettings settings;
  Settings own;
  CLI::App app("Fine-tunes Stable Diffusion on images of an instance (DreamBooth).");
  add_flags(app, dreambooth_flags(), settings);
  add_flags(app, flags(), own);
  add_stable_diffusion_flags(app, shared, /*has_captions=*/false);
  refuse_python_flags(app, argc, argv, refused());
  parse_or_exit(app, argc, argv);
  check_dreambooth_flags(app, settings);
  const bool has_previews = !settings.validation_prompts.empty();
  if (!has_previews && app.count("--validation_scheduler") > 0)
    throw ConfigError("--validation_scheduler needs --validation_prompt");
  if (own.offset_noise && app.count("--noise_offset") > 0)
    throw ConfigError("--offset_noise and --noise_offset exclude each other; found both");
  if (own.offset_noise) shared.training.noise_offset = kOffsetNoise;
  if (!has_previews) shared.training.validation_steps = 0;
  complete_stable_diffusion(app, shared);

  const TextToImageModels models = load_dreambooth_models(settings, shared);
  const DreamBoothDataset data = open_dreambooth_data(settings, shared, models);
  std::printf("UNet2DConditionModel with %lld parameters on %s, %zu instance images, %zu class images\n",
              static_cast<long long>(models.unet->num_parameters()), shared.device.c_str(),
              data.instance_files().size(), data.class_files().size());

  Trainer trainer(
      std::make_shared<TextToImageTask>(
          models, TextToImageTaskOptions{.train_text_encoder = settings.train_text_encoder,
                                         .cache_text_embeddings = settings.pre_compute_text_embeddings,
                                         .prior_loss_weight = settings.prior_loss_weight}),
      shared.training, training_group());
  if (has_previews)
    trainer.on_preview(unet_previews(models,
                                     {.prompts = settings.validation_prompts,
                                      .num_images = settings.num_validation_images,
                                      .scheduler = own.validation_scheduler,
                                      .num_inference_steps = kPreviewSteps},
                                     shared.training));
  return exit_code(trainer.train(data));
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_dreambooth", run, argc, argv); }
