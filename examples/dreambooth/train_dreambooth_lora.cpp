// Trains LoRA adapters of Stable Diffusion 1.x, 2.x or XL on a few images of an instance, as diffusers'
// train_dreambooth_lora.py and train_dreambooth_lora_sdxl.py do, and writes pytorch_lora_weights.safetensors.
// With prior preservation it also trains on images of the instance's class, which it generates if there are
// too few.

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/models/lora_weights.h>
#include <diffusers/training/text_to_image_lora_task.h>
#include <diffusers/training/trainer.h>

#include "../program.h"
#include "../training_group.h"
#include "dreambooth_flags.h"

using namespace diffusers;

namespace {

// Defaults of train_dreambooth_lora_sdxl.py.
constexpr double kLearningRateXL = 1e-4;
constexpr double kTextEncoderLearningRateXL = 5e-6;
constexpr double kWeightDecayXL = 1e-4;
constexpr int64_t kResolutionXL = 1024;
// Denoising steps of the scripts' previews.
constexpr int64_t kPreviewSteps = 25;

struct Settings {
  int64_t rank = 4;
  std::optional<int64_t> lora_alpha = std::nullopt;
  double lora_dropout = 0.0;
  bool use_dora = false;
  bool output_kohya_format = false;
  std::optional<double> text_encoder_lr = std::nullopt;
  int64_t validation_epochs = 50;
};

const FlagTable<Settings>& flags() {
  static const FlagTable<Settings> table{
      {"Adapters",
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
        {"--output_kohya_format", &Settings::output_kohya_format,
         "Also write pytorch_lora_weights_kohya.safetensors, in the layout of kohya-ss."},
        {"--text_encoder_lr",
         &Settings::text_encoder_lr,
         "Learning rate of the text encoders' adapters.",
         {.check = at_least(0), .default_text = "--learning_rate; 5e-6 for Stable Diffusion XL"}}}},
      {"Validation",
       {{"--validation_epochs",
         &Settings::validation_epochs,
         "Number of epochs between two such pictures. --validation_steps counts in steps instead.",
         {.check = at_least(1)}}}},
  };
  return table;
}

std::vector<RefusedFlag> refused() {
  std::vector<RefusedFlag> flags = refused_dreambooth_flags();
  const std::string prodigy = "it is for the Prodigy optimizer, which the program does not have";
  const std::string columns = "the caption is --instance_prompt, for all images of the folder";
  for (const RefusedFlag& flag : std::vector<RefusedFlag>{
           {"--do_edm_style_training",
            "the program does not have the EDM formulation of Stable Diffusion XL"},
           {"--adam_weight_decay_text_encoder", "all adapters have the weight decay --adam_weight_decay"},
           {"--prodigy_beta3", prodigy},
           {"--prodigy_decouple", prodigy},
           {"--prodigy_use_bias_correction", prodigy},
           {"--prodigy_safeguard_warmup", prodigy},
           {"--image_column", columns},
           {"--caption_column", columns}})
    flags.push_back(flag);
  return flags;
}

void check_previews(const CLI::App& app, const DreamBoothSettings& settings) {
  if (settings.validation_prompts.empty() && app.count("--validation_epochs") > 0)
    throw ConfigError("--validation_epochs needs --validation_prompt");
  if (app.count("--validation_epochs") > 0 && app.count("--validation_steps") > 0)
    throw ConfigError("--validation_epochs and --validation_steps exclude each other; found both");
}

/// Sets the defaults of train_dreambooth_lora_sdxl.py.
void complete_xl(const CLI::App& app, DreamBoothSettings& settings, Settings& own,
                 StableDiffusionSettings& shared) {
  const auto is_missing = [&](const char* flag) { return app.count(flag) == 0; };
  if (is_missing("--resolution")) shared.training.resolution = kResolutionXL;
  if (is_missing("--learning_rate")) shared.training.learning_rate = kLearningRateXL;
  if (is_missing("--adam_weight_decay")) shared.training.adam_weight_decay = kWeightDecayXL;
  if (is_missing("--image_interpolation_mode"))
    settings.image_interpolation_mode = ImageInterpolation::kLanczos;
  if (settings.train_text_encoder && !own.text_encoder_lr) own.text_encoder_lr = kTextEncoderLearningRateXL;
}

/// The text encoders' learning rate is a factor on that of the UNet.
void set_text_encoder_lr(const Settings& own, const TextToImageModels& models, TrainingConfig& training) {
  if (!own.text_encoder_lr) return;
  if (training.learning_rate <= 0) throw ConfigError("--text_encoder_lr needs a --learning_rate above 0");
  const double factor = *own.text_encoder_lr / training.learning_rate;
  training.lr_factors.push_back({"text_encoder_lora.*", factor});
  if (models.is_xl()) training.lr_factors.push_back({"text_encoder_2_lora.*", factor});
}

TextToImageLoraTaskOptions task_options(const DreamBoothSettings& settings, const Settings& own) {
  TextToImageLoraTaskOptions options{.train_text_encoder = settings.train_text_encoder,
                                     .cache_text_embeddings = settings.pre_compute_text_embeddings,
                                     .prior_loss_weight = settings.prior_loss_weight};
  for (LoraConfig* lora : {&options.unet_lora, &options.text_encoder_lora}) {
    lora->r = own.rank;
    lora->lora_alpha = own.lora_alpha.value_or(own.rank);
    lora->lora_dropout = own.lora_dropout;
    lora->use_dora = own.use_dora;
  }
  return options;
}

/// Converts the file of the training, which holds the EMA weights if there are some.
void save_kohya(const TextToImageModels& models, const TrainingConfig& training) {
  const LoraModules modules{
      .unet = models.unet, .text_encoder = models.text_encoder, .text_encoder_2 = models.text_encoder_2};
  convert_lora_weights(training.output_dir, training.output_dir, modules,
                       {.format = LoraFormat::kKohya,
                        .weight_name = "pytorch_lora_weights.safetensors",
                        .output_name = "pytorch_lora_weights_kohya.safetensors"});
}

int run(int argc, char** argv) {
  StableDiffusionSettings shared;
  set_dreambooth_defaults(shared.training);
  shared.training.output_dir = "lora-dreambooth-model";
  shared.training.learning_rate = 5e-4;
  DreamBoothSettings settings;
  Settings own;
  CLI::App app(
      "Trains LoRA adapters of Stable Diffusion on images of an instance (DreamBooth). Stable Diffusion XL "
      "has "
      "other defaults: --resolution 1024, --learning_rate 1e-4, --adam_weight_decay 1e-4 and "
      "--image_interpolation_mode lanczos.");
  add_flags(app, dreambooth_flags(), settings);
  add_flags(app, flags(), own);
  add_stable_diffusion_flags(app, shared, /*has_captions=*/false);
  refuse_python_flags(app, argc, argv, refused());
  parse_or_exit(app, argc, argv);
  check_dreambooth_flags(app, settings);
  check_previews(app, settings);
  if (own.output_kohya_format && own.use_dora)
    throw ConfigError(
        "--output_kohya_format and --use_dora exclude each other: the layout of kohya-ss cannot hold DoRA");
  if (own.text_encoder_lr && !settings.train_text_encoder)
    throw ConfigError("--text_encoder_lr needs --train_text_encoder");

  const TextToImageModels models = load_dreambooth_models(settings, shared, frozen_dtype(shared.training));
  if (models.is_xl()) complete_xl(app, settings, own, shared);
  complete_stable_diffusion(app, shared);
  set_text_encoder_lr(own, models, shared.training);
  const DreamBoothDataset data = open_dreambooth_data(settings, shared, models);
  const bool has_previews = !settings.validation_prompts.empty();
  if (has_previews && app.count("--validation_steps") == 0)
    shared.training.validation_steps = own.validation_epochs * steps_per_epoch(data.size(), shared.training);

  if (shared.training.seed) manual_seed(static_cast<uint64_t>(*shared.training.seed));
  const auto task = std::make_shared<TextToImageLoraTask>(models, task_options(settings, own));
  int64_t count = 0;
  for (const NamedModule& named : task->trained())
    for (const Tensor& parameter : named.module->module().parameters()) count += parameter.numel();
  std::printf("LoRA adapters with %lld parameters on %s, %zu instance images, %zu class images\n",
              static_cast<long long>(count), shared.device.c_str(), data.instance_files().size(),
              data.class_files().size());

  Trainer trainer(task, shared.training, training_group());
  if (has_previews)
    trainer.on_preview(unet_previews(models,
                                     {.prompts = settings.validation_prompts,
                                      .num_images = settings.num_validation_images,
                                      .scheduler = "DPMSolverMultistepScheduler",
                                      .num_inference_steps = kPreviewSteps},
                                     shared.training));
  const TrainingResult result = trainer.train(data);
  if (own.output_kohya_format && result.is_complete && training_group().rank() == 0)
    save_kohya(models, shared.training);
  return exit_code(result);
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_dreambooth_lora", run, argc, argv); }
