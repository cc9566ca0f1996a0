// Trains LoRA adapters of Stable Diffusion 1.x, 2.x or XL on pictures with captions, as diffusers'
// train_text_to_image_lora.py and train_text_to_image_lora_sdxl.py do, and writes
// pytorch_lora_weights.safetensors.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/config_overrides.h>
#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/training/text_to_image_lora_task.h>
#include <diffusers/training/trainer.h>

#include "../program.h"
#include "../training_group.h"
#include "previews.h"
#include "stable_diffusion_flags.h"

using namespace diffusers;

namespace {

struct Settings {
  int64_t rank = 4;
  std::optional<int64_t> lora_alpha = std::nullopt;
  double lora_dropout = 0.0;
  bool use_dora = false;
  bool train_text_encoder = false;
  std::optional<std::string> prediction_type = std::nullopt;
  bool center_crop = false;
  bool random_flip = false;
  std::vector<std::string> validation_prompts = {};
  int64_t num_validation_images = 4;
  int64_t validation_epochs = 1;
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Model",
       {{"--rank", &Settings::rank, "Rank of the adapters.", {.check = at_least(1)}},
        {"--lora_alpha",
         &Settings::lora_alpha,
         "The adapters' updates are multiplied by lora_alpha / rank.",
         {.check = at_least(1), .default_text = "the rank"}},
        {"--lora_dropout",
         &Settings::lora_dropout,
         "Dropout probability of the adapters' inputs.",
         {.check = between(0, 1)}},
        {"--use_dora", &Settings::use_dora, "Also train the norms of the weights' rows (DoRA)."},
        {"--train_text_encoder", &Settings::train_text_encoder, "Also train adapters of the text encoders."},
        {"--prediction_type",
         &Settings::prediction_type,
         "What the UNet learns to predict: epsilon or v_prediction.",
         {.check = CLI::IsMember({"epsilon", "v_prediction"}), .default_text = "that of the scheduler"}}}},
      {"Data",
       {{"--center_crop", &Settings::center_crop,
         "Crop the centre of each picture. Without it the crop is random."},
        {"--random_flip", &Settings::random_flip, "Flip half of the images horizontally."}}},
      {"Validation",
       {{"--validation_prompt,--validation_prompts", &Settings::validation_prompts,
         "Prompts that pictures are drawn for during the training."},
        {"--num_validation_images",
         &Settings::num_validation_images,
         "Number of pictures of each prompt.",
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
  flags.push_back({"--debug_loss", "metrics.csv has the loss of the logging steps"});
  return flags;
}

void check_previews(const CLI::App& app, const Settings& settings) {
  const auto is_given = [&](const char* flag) { return app.count(flag) > 0; };
  if (settings.validation_prompts.empty())
    for (const char* flag : {"--validation_epochs", "--validation_steps", "--num_validation_images"})
      if (is_given(flag)) throw ConfigError(std::string(flag) + " needs --validation_prompt");
  if (is_given("--validation_epochs") && is_given("--validation_steps"))
    throw ConfigError("--validation_epochs and --validation_steps exclude each other; found both");
}

TextToImageLoraTaskOptions task_options(const Settings& settings, const StableDiffusionSettings& shared) {
  TextToImageLoraTaskOptions options{.train_text_encoder = settings.train_text_encoder,
                                     .proportion_empty_prompts = shared.proportion_empty_prompts,
                                     .cache_text_embeddings = shared.cache_text_embeddings};
  for (LoraConfig* lora : {&options.unet_lora, &options.text_encoder_lora}) {
    lora->r = settings.rank;
    lora->lora_alpha = settings.lora_alpha.value_or(settings.rank);
    lora->lora_dropout = settings.lora_dropout;
    lora->use_dora = settings.use_dora;
  }
  return options;
}

int run(int argc, char** argv) {
  StableDiffusionSettings shared;
  shared.training.output_dir = "sd-model-finetuned-lora";
  Settings settings;
  CLI::App app(
      "Trains LoRA adapters of Stable Diffusion on pictures with captions. Stable Diffusion XL has another "
      "default: --resolution 1024.");
  add_flags(app, flags(), settings);
  add_stable_diffusion_flags(app, shared);
  add_flags(app, shard_flags(), shared.shards);
  refuse_python_flags(app, argc, argv, refused());
  parse_or_exit(app, argc, argv);
  complete_stable_diffusion(app, shared);
  check_previews(app, settings);

  TextToImageModels models = load_stable_diffusion(shared, frozen_dtype(shared.training));
  if (models.is_inpainting())
    throw ConfigError(
        "the UNet is one for inpainting, which Python's script does not train; "
        "TextToImageLoraTask does");
  if (settings.prediction_type)
    models.scheduler = Scheduler::from_config(models.scheduler->config_json(),
                                              {{"prediction_type", *settings.prediction_type}});
  require_trained_prediction(models);
  if (models.is_xl() && app.count("--resolution") == 0) shared.training.resolution = 1024;
  ImageFolderOptions pictures = picture_options(shared);
  pictures.center_crop = settings.center_crop;
  pictures.random_flip = settings.random_flip;
  const TrainImages data = open_train_images(shared.shards, shared.train_data_dir, pictures);
  const bool has_previews = !settings.validation_prompts.empty();
  if (has_previews && app.count("--validation_steps") == 0)
    shared.training.validation_steps =
        settings.validation_epochs * steps_per_epoch(data, shared.training, "--validation_epochs");

  if (shared.training.seed) manual_seed(static_cast<uint64_t>(*shared.training.seed));
  const auto task = std::make_shared<TextToImageLoraTask>(models, task_options(settings, shared));
  int64_t count = 0;
  for (const NamedModule& named : task->trained())
    for (const Tensor& parameter : named.module->module().parameters()) count += parameter.numel();
  std::printf("LoRA adapters with %lld parameters on %s, %s\n", static_cast<long long>(count),
              shared.device.c_str(), data.description().c_str());

  Trainer trainer(task, trainer_config(shared.training, shared.shards), training_group());
  if (has_previews)
    trainer.on_preview(unet_previews(
        models, {.prompts = settings.validation_prompts, .num_images = settings.num_validation_images},
        shared.training));
  return exit_code(data.train(trainer));
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_text_to_image_lora", run, argc, argv); }
