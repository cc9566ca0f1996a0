#include "conditioning_flags.h"

#include <diffusers/core/error.h>

using namespace diffusers;

namespace {

constexpr int64_t kValidationSteps = 100;  // the default of the scripts

const FlagTable<ConditioningSettings>& conditioning_flags() {
  using Settings = ConditioningSettings;
  static const FlagTable<Settings> table{
      {"Model",
       {{"--tokenizer_name",
         &Settings::tokenizer_name,
         "Folder of another tokenizer.",
         {.default_text = "that of the pipeline folder"}}}},
      {"Data",
       {{"--crops_coords_top_left_h",
         &Settings::crops_coords_top_left_h,
         "Top edge of the crop that the UNet of Stable Diffusion XL is told for all pictures.",
         {.check = at_least(0)}},
        {"--crops_coords_top_left_w",
         &Settings::crops_coords_top_left_w,
         "Left edge of the crop that the UNet of Stable Diffusion XL is told for all pictures.",
         {.check = at_least(0)}},
        {"--conditioning_image_column", &Settings::conditioning_image_column,
         "Column of the conditioning images in the metadata."}}},
      {"Validation",
       {{"--validation_prompt", &Settings::validation_prompts,
         "Prompts that pictures are drawn for, every 100 steps unless --validation_steps is given."},
        {"--validation_image", &Settings::validation_images,
         "Conditioning images of the prompts, PNG or JPEG files: as many as prompts, or one of either."},
        {"--num_validation_images",
         &Settings::num_validation_images,
         "Number of pictures of each prompt and conditioning image.",
         {.check = at_least(1)}}}},
  };
  return table;
}

}  // namespace

void add_conditioning_flags(CLI::App& app, ConditioningSettings& settings) {
  add_flags(app, conditioning_flags(), settings);
}

PreviewInputs complete_previews(const CLI::App& app, const ConditioningSettings& settings,
                                TrainingConfig& training) {
  PreviewInputs inputs{.prompts = settings.validation_prompts,
                       .images = settings.validation_images,
                       .num_images = settings.num_validation_images};
  if (inputs.prompts.empty() && inputs.images.empty()) {
    for (const char* flag : {"--num_validation_images", "--validation_steps"})
      if (app.count(flag) > 0) throw ConfigError(std::string(flag) + " needs --validation_prompt");
    return inputs;
  }
  check_preview_pairs(inputs);
  if (app.count("--validation_steps") == 0) training.validation_steps = kValidationSteps;
  return inputs;
}

void refuse_xl_previews(const PreviewInputs& previews, const TextToImageModels& models,
                        const std::string& missing) {
  if (!previews.prompts.empty() && models.is_xl())
    throw ConfigError(
        "--validation_prompt needs Stable Diffusion 1.x or 2.x; found Stable Diffusion XL, for which the "
        "library has no " +
        missing);
}

TextToImageModels load_conditioned_models(const StableDiffusionSettings& shared,
                                          const ConditioningSettings& settings) {
  TextToImageModels models = load_stable_diffusion(shared);
  if (!settings.tokenizer_name.empty())
    models.tokenizer = CLIPTokenizer::from_pretrained(settings.tokenizer_name);
  return models;
}

ImageFolderOptions conditioned_picture_options(const StableDiffusionSettings& shared,
                                               const ConditioningSettings& settings) {
  ImageFolderOptions options = picture_options(shared);
  options.center_crop = true;
  options.conditioning_image_column = settings.conditioning_image_column;
  return options;
}
