#include "conditioning_flags.h"

using namespace diffusers;

namespace {

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
  };
  return table;
}

}  // namespace

void add_conditioning_flags(CLI::App& app, ConditioningSettings& settings) {
  add_flags(app, conditioning_flags(), settings);
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
