// Trains the embeddings of new tokens of Stable Diffusion 1.x, 2.x or XL on pictures of a concept, as
// diffusers' textual_inversion.py and textual_inversion_sdxl.py do, and writes learned_embeds.safetensors and
// a pipeline folder.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/textual_inversion_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/training/textual_inversion_task.h>
#include <diffusers/training/trainer.h>

#include "../program.h"
#include "../text_to_image/previews.h"
#include "../text_to_image/stable_diffusion_flags.h"
#include "../training_group.h"

using namespace diffusers;

namespace {

struct Settings {
  std::string tokenizer_name = {};
  std::string placeholder_token = {};
  std::string initializer_token = {};
  int64_t num_vectors = 1;
  std::string learnable_property = "object";
  int64_t repeats = 100;
  bool center_crop = false;
  int64_t save_steps = 500;
  bool save_as_full_pipeline = true;
  std::vector<std::string> validation_prompts = {};
  int64_t num_validation_images = 4;
  std::optional<int64_t> validation_epochs = std::nullopt;
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Model",
       {{"--tokenizer_name",
         &Settings::tokenizer_name,
         "Folder of another tokenizer.",
         {.default_text = "that of the pipeline folder"}},
        {"--placeholder_token",
         &Settings::placeholder_token,
         "New token that stands for the concept, such as \"<cat-toy>\". Lower case.",
         {.required = true}},
        {"--initializer_token",
         &Settings::initializer_token,
         "Word of one token whose embedding the new ones start with, such as toy.",
         {.required = true}},
        {"--num_vectors",
         &Settings::num_vectors,
         "Number of vectors of the concept. The others have the tokens PLACEHOLDER_1, PLACEHOLDER_2, ...",
         {.check = at_least(1)}}}},
      {"Data",
       {{"--learnable_property",
         &Settings::learnable_property,
         "What the pictures have in common: object or style. It chooses the captions.",
         {.check = CLI::IsMember({"object", "style"})}},
        {"--repeats",
         &Settings::repeats,
         "Number of samples of each picture in an epoch.",
         {.check = at_least(1)}},
        {"--center_crop", &Settings::center_crop,
         "Crop the centre of each picture. Without it the picture is resized to a square as a whole."}}},
      {"Output",
       {{"--save_steps",
         &Settings::save_steps,
         "Number of steps between two files learned_embeds-steps-N.safetensors. 0 writes none.",
         {.check = at_least(0)}},
        {"--save_as_full_pipeline,!--save_embeddings_only", &Settings::save_as_full_pipeline,
         "Also write the pipeline folder. --save_embeddings_only writes only the embeddings."}}},
      {"Validation",
       {{"--validation_prompt,--validation_prompts", &Settings::validation_prompts,
         "Prompts that pictures are drawn for during the training, with the placeholder."},
        {"--num_validation_images",
         &Settings::num_validation_images,
         "Number of pictures of each prompt.",
         {.check = at_least(1)}},
        {"--validation_epochs",
         &Settings::validation_epochs,
         "Number of epochs between two such pictures, instead of --validation_steps.",
         {.check = at_least(1), .default_text = "none"}}}},
  };
  return table;
}

std::vector<RefusedFlag> refused() {
  std::vector<RefusedFlag> flags = refused_stable_diffusion_flags();
  flags.push_back({"--no_safe_serialization", "pickles are not written"});
  flags.push_back({"--caption_column", "the captions are those of --learnable_property"});
  flags.push_back({"--cache_text_embeddings", "the embeddings change in each step"});
  flags.push_back({"--proportion_empty_prompts", "an empty caption has no placeholder to train"});
  return flags;
}

/// Removes the shared flags that make no sense here. `refused` has the reasons.
void remove_flags(CLI::App& app) {
  for (const char* flag : {"--caption_column", "--cache_text_embeddings", "--proportion_empty_prompts"})
    app.remove_option(app.get_option(flag));
}

void check_previews(const CLI::App& app, const Settings& settings) {
  const auto is_given = [&](const char* flag) { return app.count(flag) > 0; };
  if (settings.validation_prompts.empty())
    for (const char* flag : {"--validation_epochs", "--validation_steps", "--num_validation_images"})
      if (is_given(flag)) throw ConfigError(std::string(flag) + " needs --validation_prompt");
  if (is_given("--validation_epochs") && is_given("--validation_steps"))
    throw ConfigError("--validation_epochs and --validation_steps exclude each other; found both");
}

/// The defaults of the script.
StableDiffusionSettings default_settings() {
  StableDiffusionSettings shared;
  shared.training.output_dir = "text-inversion-model";
  shared.training.train_batch_size = 16;
  shared.training.num_epochs = 100;
  shared.training.max_train_steps = 5000;
  shared.training.lr_warmup_steps = 500;
  shared.training.max_grad_norm = 0;  // the script does not clip
  shared.image_interpolation_mode = ImageInterpolation::kBicubic;
  return shared;
}

int run(int argc, char** argv) {
  StableDiffusionSettings shared = default_settings();
  Settings settings;
  CLI::App app("Trains the embeddings of new tokens of Stable Diffusion on pictures of a concept");
  add_flags(app, flags(), settings);
  add_stable_diffusion_flags(app, shared);
  remove_flags(app);
  refuse_python_flags(app, argc, argv, refused());
  parse_or_exit(app, argc, argv);
  complete_stable_diffusion(app, shared);
  check_previews(app, settings);

  TextToImageModels models = load_stable_diffusion(shared);
  if (!settings.tokenizer_name.empty())
    models.tokenizer = CLIPTokenizer::from_pretrained(settings.tokenizer_name);
  if (models.is_inpainting())
    throw ConfigError("the UNet is one for inpainting, which Python's script does not train");
  require_trained_prediction(models);
  const auto task = std::make_shared<TextualInversionTask>(
      models, TextualInversionTaskOptions{.placeholder_token = settings.placeholder_token,
                                          .initializer_token = settings.initializer_token,
                                          .num_vectors = settings.num_vectors,
                                          .save_as_full_pipeline = settings.save_as_full_pipeline});
  const auto pictures = std::make_shared<ImageFolder>(
      shared.train_data_dir, ImageFolderOptions{.resolution = *shared.training.resolution,
                                                .center_crop = settings.center_crop,
                                                .random_flip = true,
                                                .max_samples = shared.max_train_samples,
                                                .image_interpolation_mode = shared.image_interpolation_mode,
                                                .resize_to_square = !settings.center_crop});
  const TextualInversionDataset data(pictures, {.placeholder = task->placeholder(),
                                                .learnable_property = settings.learnable_property,
                                                .repeats = settings.repeats});
  const bool has_previews = !settings.validation_prompts.empty();
  if (has_previews && app.count("--validation_steps") == 0)
    shared.training.validation_steps =
        settings.validation_epochs
            ? *settings.validation_epochs * steps_per_epoch(data.size(), shared.training)
            : 100;
  std::printf("%s: %lld vectors of width %lld on %s, %lld images\n", task->placeholder().c_str(),
              static_cast<long long>(settings.num_vectors),
              static_cast<long long>(task->learned_embeds().size(1)), shared.device.c_str(),
              static_cast<long long>(pictures->size()));

  Trainer trainer(task, shared.training, training_group());
  if (settings.save_steps > 0 && training_group().is_main())
    trainer.on_step([&](int64_t step) {
      if (step % settings.save_steps == 0)
        task->save_learned_embeds(join_path(shared.training.output_dir,
                                            "learned_embeds-steps-" + std::to_string(step) + ".safetensors"));
    });
  if (has_previews)
    trainer.on_preview(
        unet_previews(task->models(),
                      {.prompts = settings.validation_prompts, .num_images = settings.num_validation_images},
                      shared.training));
  return exit_code(trainer.train(data));
}

}  // namespace

int main(int argc, char** argv) { return run_program("textual_inversion", run, argc, argv); }
