// Trains a ControlNet for Stable Diffusion 1.x, 2.x or XL on pictures with captions and conditioning images,
// as diffusers' train_controlnet.py and train_controlnet_sdxl.py do, and writes a ControlNet folder.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/training/controlnet_task.h>
#include <diffusers/training/trainer.h>

#include "../program.h"
#include "../text_to_image/conditioning_flags.h"
#include "../training_group.h"

using namespace diffusers;

namespace {

struct Settings {
  std::string controlnet_model_name_or_path = {};
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Model",
       {{"--controlnet_model_name_or_path",
         &Settings::controlnet_model_name_or_path,
         "Folder of a ControlNet to go on from.",
         {.default_text = "a new one with the weights of the UNet"}}}},
  };
  return table;
}

int run(int argc, char** argv) {
  StableDiffusionSettings shared;
  shared.training.output_dir = "controlnet-model";
  shared.training.train_batch_size = 4;
  shared.training.num_epochs = 1;
  shared.training.learning_rate = 5e-6;
  shared.image_interpolation_mode = ImageInterpolation::kBilinear;
  Settings settings;
  ConditioningSettings conditioning;
  CLI::App app(
      "Trains a ControlNet for Stable Diffusion on pictures with captions and conditioning images. Stable "
      "Diffusion XL has another default: --image_interpolation_mode lanczos.");
  add_flags(app, flags(), settings);
  add_conditioning_flags(app, conditioning);
  add_stable_diffusion_flags(app, shared);
  refuse_python_flags(app, argc, argv, refused_stable_diffusion_flags());
  parse_or_exit(app, argc, argv);
  complete_stable_diffusion(app, shared);
  const PreviewInputs previews = complete_previews(app, conditioning, shared.training);

  const TextToImageModels models = load_conditioned_models(shared, conditioning);
  require_trained_prediction(models);
  if (models.is_xl() && app.count("--image_interpolation_mode") == 0)
    shared.image_interpolation_mode = ImageInterpolation::kLanczos;
  refuse_xl_previews(previews, models, "ControlNet pipeline");
  ControlNetModel controlnet = nullptr;
  if (!settings.controlnet_model_name_or_path.empty()) {
    controlnet = ControlNetModel::from_pretrained(settings.controlnet_model_name_or_path,
                                                  {.device = at::Device(shared.device)});
  } else {
    if (shared.training.seed) manual_seed(static_cast<uint64_t>(*shared.training.seed));
    controlnet = ControlNetTask::make_controlnet(models);
    controlnet->to(at::Device(shared.device));
  }
  const ImageFolder data(shared.train_data_dir, conditioned_picture_options(shared, conditioning));
  std::printf("ControlNetModel with %lld parameters on %s, %lld images\n",
              static_cast<long long>(controlnet->num_parameters()), shared.device.c_str(),
              static_cast<long long>(data.size()));

  const ControlNetTaskOptions options{.proportion_empty_prompts = shared.proportion_empty_prompts,
                                      .cache_text_embeddings = shared.cache_text_embeddings,
                                      .crops_coords_top_left_h = conditioning.crops_coords_top_left_h,
                                      .crops_coords_top_left_w = conditioning.crops_coords_top_left_w};
  Trainer trainer(std::make_shared<ControlNetTask>(models, controlnet, options), shared.training,
                  training_group());
  if (!previews.prompts.empty())
    trainer.on_preview(controlnet_previews(models, controlnet, previews, shared.training));
  return exit_code(trainer.train(data));
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_controlnet", run, argc, argv); }
