// Fine-tunes Stable Diffusion 1.x, 2.x or XL on pictures with captions, as diffusers' train_text_to_image.py
// and train_text_to_image_sdxl.py do, and writes a pipeline folder. An inpainting UNet is trained with masks.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/config_overrides.h>
#include <diffusers/core/error.h>
#include <diffusers/training/text_to_image_task.h>
#include <diffusers/training/trainer.h>

#include "../program.h"
#include "../training_group.h"
#include "previews.h"
#include "stable_diffusion_flags.h"

using namespace diffusers;

namespace {

// Numbers of the scripts train_text_to_image.py and train_text_to_image_sdxl.py.
constexpr int64_t kValidationEpochs = 5;
constexpr int64_t kValidationEpochsXL = 1;
constexpr int64_t kValidationImagesXL = 4;

struct Settings {
  bool center_crop = false;
  bool random_flip = false;
  std::string mask_column = {};
  bool train_text_encoder = false;
  std::optional<std::string> prediction_type = std::nullopt;
  std::vector<std::string> validation_prompts = {};
  std::vector<std::string> validation_images = {};
  std::vector<std::string> validation_masks = {};
  std::optional<int64_t> num_validation_images = std::nullopt;
  std::optional<int64_t> validation_epochs = std::nullopt;
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
        {"--validation_image", &Settings::validation_images,
         "PNG or JPEG files that the prompts repaint: as many as prompts, or one of either. For inpainting "
         "UNets."},
        {"--validation_mask", &Settings::validation_masks,
         "PNG or JPEG files, white where a --validation_image is repainted: one for each."},
        {"--num_validation_images",
         &Settings::num_validation_images,
         "Number of pictures of each prompt.",
         {.check = at_least(1), .default_text = "1; 4 for Stable Diffusion XL"}},
        {"--validation_epochs",
         &Settings::validation_epochs,
         "Number of epochs between two such pictures. --validation_steps counts in steps instead.",
         {.check = at_least(1), .default_text = "5; 1 for Stable Diffusion XL"}}}},
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

/// Checks the flags of the previews.
/// @return no prompts: no previews
PreviewInputs preview_inputs(const CLI::App& app, const Settings& settings, const TextToImageModels& models) {
  const auto is_given = [&](const char* flag) { return app.count(flag) > 0; };
  PreviewInputs inputs{
      .prompts = settings.validation_prompts,
      .images = settings.validation_images,
      .masks = settings.validation_masks,
      .num_images = settings.num_validation_images.value_or(models.is_xl() ? kValidationImagesXL : 1)};
  if (inputs.prompts.empty())
    for (const char* flag : {"--validation_epochs", "--validation_steps", "--validation_image",
                             "--validation_mask", "--num_validation_images"})
      refuse(is_given(flag), std::string(flag) + " needs --validation_prompts");
  refuse(is_given("--validation_epochs") && is_given("--validation_steps"),
         "--validation_epochs and --validation_steps exclude each other; found both");
  if (!models.is_inpainting())
    for (const char* flag : {"--validation_image", "--validation_mask"})
      refuse(is_given(flag), std::string(flag) + " needs an inpainting UNet");
  if (!models.is_inpainting() || inputs.prompts.empty()) return inputs;
  check_preview_pairs(inputs);
  refuse(inputs.masks.size() != inputs.images.size(),
         "--validation_mask has " + std::to_string(inputs.masks.size()) +
             " files, expected one for each of the " + std::to_string(inputs.images.size()) +
             " files of --validation_image");
  return inputs;
}

void check_flags(const Settings& settings, const TextToImageModels& models) {
  refuse(!models.is_inpainting() && !settings.mask_column.empty(),
         "--mask_column needs an inpainting UNet; found in_channels " +
             std::to_string(models.unet->config().in_channels));
  refuse(models.is_inpainting() && settings.mask_column.empty(),
         "the UNet is one for inpainting, which needs --mask_column");
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
  add_flags(app, shard_flags(), shared.shards);
  refuse_python_flags(app, argc, argv, refused_stable_diffusion_flags());
  parse_or_exit(app, argc, argv);
  complete_stable_diffusion(app, shared);

  TextToImageModels models = load_stable_diffusion(shared);
  check_flags(settings, models);
  const PreviewInputs previews = preview_inputs(app, settings, models);
  if (settings.prediction_type)
    models.scheduler = Scheduler::from_config(models.scheduler->config_json(),
                                              {{"prediction_type", *settings.prediction_type}});
  require_trained_prediction(models);
  if (models.is_xl()) complete_xl(app, shared);
  ImageFolderOptions pictures = picture_options(shared);
  pictures.center_crop = settings.center_crop;
  pictures.random_flip = settings.random_flip;
  pictures.mask_column = settings.mask_column;
  const TrainImages data = open_train_images(shared.shards, shared.train_data_dir, pictures);
  const bool has_previews = !previews.prompts.empty();
  if (has_previews && app.count("--validation_steps") == 0)
    shared.training.validation_steps =
        settings.validation_epochs.value_or(models.is_xl() ? kValidationEpochsXL : kValidationEpochs) *
        steps_per_epoch(data, shared.training, "--validation_epochs");
  std::printf("UNet2DConditionModel with %lld parameters on %s, %s\n",
              static_cast<long long>(models.unet->num_parameters()), shared.device.c_str(),
              data.description().c_str());

  Trainer trainer(
      std::make_shared<TextToImageTask>(
          models, TextToImageTaskOptions{.train_text_encoder = settings.train_text_encoder,
                                         .proportion_empty_prompts = shared.proportion_empty_prompts,
                                         .cache_text_embeddings = shared.cache_text_embeddings}),
      trainer_config(shared.training, shared.shards), training_group());
  if (has_previews) trainer.on_preview(unet_previews(models, previews, shared.training));
  return exit_code(data.train(trainer));
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_text_to_image", run, argc, argv); }
