// Trains Stable Diffusion 1.x or 2.x to edit pictures by instructions, as diffusers'
// train_instruct_pix2pix.py does, and writes a folder for StableDiffusionInstructPix2PixPipeline.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/training/instruct_pix2pix_task.h>
#include <diffusers/training/trainer.h>

#include "../program.h"
#include "../text_to_image/previews.h"
#include "../text_to_image/stable_diffusion_flags.h"
#include "../training_group.h"

using namespace diffusers;

namespace {

struct Settings {
  std::string original_image_column = "input_image";
  std::string edited_image_column = "edited_image";
  std::string edit_prompt_column = "edit_prompt";
  double conditioning_dropout_prob = 0.0;
  bool center_crop = false;
  bool random_flip = false;
  std::vector<std::string> validation_images = {};
  std::vector<std::string> validation_prompts = {};
  int64_t num_validation_images = 4;
  int64_t validation_epochs = 1;
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Data",
       {{"--original_image_column", &Settings::original_image_column,
         "Column of the pictures before the edit, in the metadata."},
        {"--edited_image_column", &Settings::edited_image_column,
         "Column of the pictures after the edit. image stands for the column file_name."},
        {"--edit_prompt_column", &Settings::edit_prompt_column, "Column of the instructions."},
        {"--center_crop", &Settings::center_crop,
         "Has no effect, as in Python's script, which resizes pictures to squares before it crops."},
        {"--random_flip", &Settings::random_flip,
         "Flip half of the pairs horizontally, both pictures alike."}}},
      {"Loss",
       {{"--conditioning_dropout_prob",
         &Settings::conditioning_dropout_prob,
         "p: for two guidance scales, drop the instruction of 2 p of the samples and the original of 2 p, "
         "both "
         "of p.",
         {.check = between(0, 1.0 / 3)}}}},
      {"Validation",
       {{"--val_image_url,--validation_image", &Settings::validation_images,
         "PNG or JPEG files that the prompts edit: as many as prompts, or one of either. No URLs."},
        {"--validation_prompt,--validation_prompts", &Settings::validation_prompts,
         "Instructions that pictures are drawn for during the training."},
        {"--num_validation_images",
         &Settings::num_validation_images,
         "Number of pictures of each pair.",
         {.check = at_least(1)}},
        {"--validation_epochs",
         &Settings::validation_epochs,
         "Number of epochs between two such pictures. --validation_steps counts in steps instead.",
         {.check = at_least(1)}}}},
  };
  return table;
}

std::vector<RefusedFlag> refused() {
  std::vector<RefusedFlag> flags = refused_stable_diffusion_flags();
  flags.push_back({"--caption_column", "the instructions are those of --edit_prompt_column"});
  flags.push_back({"--proportion_empty_prompts", "--conditioning_dropout_prob drops instructions"});
  return flags;
}

/// Removes the shared flags that make no sense here. `refused` has the reasons.
void remove_flags(CLI::App& app) {
  for (const char* flag : {"--caption_column", "--proportion_empty_prompts"})
    app.remove_option(app.get_option(flag));
}

/// Checks the flags of the previews.
/// @return no prompts: no previews
PreviewInputs preview_inputs(const CLI::App& app, const Settings& settings) {
  const auto is_given = [&](const char* flag) { return app.count(flag) > 0; };
  PreviewInputs inputs{.prompts = settings.validation_prompts,
                       .images = settings.validation_images,
                       .num_images = settings.num_validation_images};
  if (inputs.prompts.empty())
    for (const char* flag : {"--validation_epochs", "--validation_steps", "--num_validation_images"})
      if (is_given(flag)) throw ConfigError(std::string(flag) + " needs --validation_prompt");
  if (is_given("--validation_epochs") && is_given("--validation_steps"))
    throw ConfigError("--validation_epochs and --validation_steps exclude each other; found both");
  for (const std::string& image : inputs.images)
    if (image.find("://") != std::string::npos)
      throw ConfigError("--val_image_url is " + image +
                        ", expected a PNG or JPEG file; nothing is downloaded");
  if (!inputs.prompts.empty() || !inputs.images.empty()) check_preview_pairs(inputs);
  return inputs;
}

int run(int argc, char** argv) {
  StableDiffusionSettings shared;
  shared.training.output_dir = "instruct-pix2pix-model";
  shared.training.resolution = 256;
  shared.training.train_batch_size = 16;
  shared.training.num_epochs = 100;
  shared.training.lr_warmup_steps = 500;
  shared.image_interpolation_mode = ImageInterpolation::kBicubic;
  Settings settings;
  CLI::App app("Trains Stable Diffusion to edit pictures by instructions");
  add_flags(app, flags(), settings);
  add_stable_diffusion_flags(app, shared);
  remove_flags(app);
  refuse_python_flags(app, argc, argv, refused());
  parse_or_exit(app, argc, argv);
  complete_stable_diffusion(app, shared);
  const PreviewInputs previews = preview_inputs(app, settings);

  TextToImageModels models = load_stable_diffusion(shared);
  require_trained_prediction(models);
  // A folder that an earlier training wrote has the channels already.
  const bool is_widened = models.unet->config().in_channels == 2 * models.vae->config().latent_channels;
  if (!models.is_xl() && !models.is_inpainting() && !is_widened)
    models.unet = InstructPix2PixTask::widened_unet(models.unet);
  const auto task = std::make_shared<InstructPix2PixTask>(
      models, InstructPix2PixTaskOptions{.conditioning_dropout_prob = settings.conditioning_dropout_prob,
                                         .cache_text_embeddings = shared.cache_text_embeddings});
  const std::string& edited = settings.edited_image_column;
  const ImageFolder data(shared.train_data_dir,
                         ImageFolderOptions{.resolution = *shared.training.resolution,
                                            .random_flip = settings.random_flip,
                                            .caption_column = settings.edit_prompt_column,
                                            .original_image_column = settings.original_image_column,
                                            .max_samples = shared.max_train_samples,
                                            .image_interpolation_mode = shared.image_interpolation_mode,
                                            .image_column = edited == "image" ? "file_name" : edited,
                                            .resize_to_square = true});
  const bool has_previews = !previews.prompts.empty();
  if (has_previews && app.count("--validation_steps") == 0)
    shared.training.validation_steps =
        settings.validation_epochs * steps_per_epoch(data.size(), shared.training);
  std::printf("UNet with %lld parameters and %lld input channels on %s, %lld pairs\n",
              static_cast<long long>(models.unet->num_parameters()),
              static_cast<long long>(models.unet->config().in_channels), shared.device.c_str(),
              static_cast<long long>(data.size()));

  Trainer trainer(task, shared.training, training_group());
  if (has_previews) trainer.on_preview(editing_previews(models, previews, shared.training));
  return exit_code(trainer.train(data));
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_instruct_pix2pix", run, argc, argv); }
