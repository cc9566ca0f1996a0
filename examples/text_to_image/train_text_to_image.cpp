// Fine-tunes Stable Diffusion 1.x, 2.x or XL on pictures with captions, as diffusers' train_text_to_image.py
// and train_text_to_image_sdxl.py do, and writes a pipeline folder. An inpainting UNet is trained with masks.

#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/config_overrides.h>
#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/training/text_to_image_task.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>

#include "../program.h"
#include "stable_diffusion_flags.h"

using namespace diffusers;

namespace {

constexpr int64_t kValidationSteps = 20;  // denoising steps of a preview, as in the script

struct Settings {
  bool center_crop = false;
  bool random_flip = false;
  std::string mask_column = {};
  bool train_text_encoder = false;
  std::optional<std::string> prediction_type = std::nullopt;
  std::vector<std::string> validation_prompts = {};
  int64_t validation_epochs = 5;
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Model",
       {{"--train_text_encoder", &Settings::train_text_encoder,
         "Train the text encoders with the UNet. EMA weights are kept of the UNet only."},
        {"--prediction_type",
         &Settings::prediction_type,
         "What the UNet learns to predict: epsilon or v_prediction. It is saved with the scheduler.",
         {.check = CLI::IsMember({"epsilon", "v_prediction"}), .default_text = "that of the scheduler"}}}},
      {"Data",
       {{"--center_crop", &Settings::center_crop,
         "Crop the centre of each picture. Without it the crop is random."},
        {"--random_flip", &Settings::random_flip, "Flip half of the images horizontally."},
        {"--mask_column",
         &Settings::mask_column,
         "Column of the masks in the metadata, white where a picture is to be inpainted. For inpainting "
         "UNets.",
         {.default_text = "none"}}}},
      {"Validation",
       {{"--validation_prompts,--validation_prompt", &Settings::validation_prompts,
         "Prompts that pictures are drawn for during the training."},
        {"--validation_epochs",
         &Settings::validation_epochs,
         "Number of epochs between two such pictures. --validation_steps counts in steps instead.",
         {.check = at_least(1)}}}},
  };
  return table;
}

/// Sets the defaults of train_text_to_image_sdxl.py.
void complete_xl(const CLI::App& app, StableDiffusionSettings& settings) {
  if (app.count("--resolution") == 0) settings.training.resolution = 1024;
  if (app.count("--output_dir") == 0) settings.training.output_dir = "sdxl-model-finetuned";
}

void refuse(bool is_wrong, const std::string& message) {
  if (is_wrong) throw ConfigError(message);
}

void check_flags(const CLI::App& app, const Settings& settings, const TextToImageModels& models) {
  refuse(settings.validation_prompts.empty() && app.count("--validation_epochs") > 0,
         "--validation_epochs needs --validation_prompts");
  refuse(settings.validation_prompts.empty() && app.count("--validation_steps") > 0,
         "--validation_steps needs --validation_prompts");
  refuse(app.count("--validation_epochs") > 0 && app.count("--validation_steps") > 0,
         "--validation_epochs and --validation_steps exclude each other; found both");
  refuse(!settings.validation_prompts.empty() && (models.is_xl() || models.is_inpainting()),
         "--validation_prompts needs a text-to-image UNet of Stable Diffusion 1.x or 2.x; found one of " +
             std::string(models.is_xl() ? "Stable Diffusion XL" : "inpainting"));
  refuse(!models.is_inpainting() && !settings.mask_column.empty(),
         "--mask_column needs an inpainting UNet; found in_channels " +
             std::to_string(models.unet->config().in_channels));
  refuse(models.is_inpainting() && settings.mask_column.empty(),
         "the UNet is one for inpainting, which needs --mask_column");
}

/// A picture for each prompt, from the same noise each time if there is a seed.
Tensor draw_prompts(const TextToImageModels& models, const std::vector<std::string>& prompts,
                    const std::optional<int64_t>& seed) {
  StableDiffusionPipeline pipeline(models.vae, models.text_encoder, models.tokenizer, models.unet,
                                   *models.scheduler);
  pipeline.set_progress_bar_config({.disable = true});
  std::optional<Generator> generator;
  if (seed) generator = make_generator(static_cast<uint64_t>(*seed));
  std::vector<Tensor> images;
  for (const std::string& prompt : prompts)
    images.push_back(
        pipeline({.prompt = prompt, .num_inference_steps = kValidationSteps, .generator = generator})
            .images.to(at::kCPU, at::kFloat));
  return at::cat(images);
}

int run(int argc, char** argv) {
  StableDiffusionSettings shared;
  shared.training.output_dir = "sd-model-finetuned";
  Settings settings;
  CLI::App app(
      "Fine-tunes Stable Diffusion on pictures with captions. Stable Diffusion XL has other defaults: "
      "--resolution 1024 and --output_dir sdxl-model-finetuned.");
  add_flags(app, flags(), settings);
  add_stable_diffusion_flags(app, shared);
  refuse_python_flags(app, argc, argv, refused_stable_diffusion_flags());
  parse_or_exit(app, argc, argv);
  complete_stable_diffusion(app, shared);

  TextToImageModels models = load_stable_diffusion(shared);
  check_flags(app, settings, models);
  if (settings.prediction_type)
    models.scheduler = Scheduler::from_config(models.scheduler->config_json(),
                                              {{"prediction_type", *settings.prediction_type}});
  require_trained_prediction(models);
  if (models.is_xl()) complete_xl(app, shared);
  ImageFolderOptions pictures = picture_options(shared);
  pictures.center_crop = settings.center_crop;
  pictures.random_flip = settings.random_flip;
  pictures.mask_column = settings.mask_column;
  const ImageFolder data(shared.train_data_dir, pictures);
  if (!settings.validation_prompts.empty() && app.count("--validation_steps") == 0)
    shared.training.validation_steps = settings.validation_epochs * steps_per_epoch(data, shared.training);
  std::printf("UNet2DConditionModel with %lld parameters on %s, %lld images\n",
              static_cast<long long>(models.unet->num_parameters()), shared.device.c_str(),
              static_cast<long long>(data.size()));

  Trainer trainer(
      std::make_shared<TextToImageTask>(
          models, TextToImageTaskOptions{.train_text_encoder = settings.train_text_encoder,
                                         .proportion_empty_prompts = shared.proportion_empty_prompts}),
      shared.training);
  if (!settings.validation_prompts.empty())
    trainer.on_preview([&](const PreviewContext& at) {
      at.log_images("validation", draw_prompts(models, settings.validation_prompts, shared.training.seed),
                    {.columns = static_cast<int64_t>(settings.validation_prompts.size())});
    });
  const TrainingResult result = trainer.train(data);
  return !result.is_complete || result.signal ? 128 + result.signal.value_or(0) : 0;
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_text_to_image", run, argc, argv); }
