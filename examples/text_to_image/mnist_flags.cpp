#include "mnist_flags.h"

#include <diffusers/core/error.h>

#include <torch/cuda.h>

using namespace diffusers;

namespace {

/// Stable Diffusion's pipelines draw images whose side is a multiple of this number.
constexpr int64_t kSideMultiple = 8;

const FlagTable<DigitSettings>& digit_flags() {
  using Settings = DigitSettings;
  static const FlagTable<Settings> table{
      {"Data",
       {{"--data_dir", &Settings::data_dir, "Folder of the four IDX files of MNIST."},
        {"--max_train_samples",
         &Settings::max_train_samples,
         "Use only the first training images. 0 uses all.",
         {.check = at_least(0)}}}},
      {"Model",
       {{"--device",
         &Settings::device,
         "Device of the training: cpu, cuda or cuda:INDEX.",
         {.check = available_device()}}}},
      {"Samples",
       {{"--eval_batch_size",
         &Settings::eval_batch_size,
         "Number of samples that are drawn for evaluation.",
         {.check = at_least(2)}},
        {"--num_inference_steps",
         &Settings::num_inference_steps,
         "Number of denoising steps of a sample.",
         {.check = at_least(1)}},
        {"--guidance_scale",
         &Settings::guidance_scale,
         "Scale of the classifier-free guidance. 1 or less disables it.",
         {.check = at_least(0)}}}},
  };
  return table;
}

const FlagTable<DigitSettings>& empty_prompt_flag() {
  static const FlagTable<DigitSettings> table{
      {"Data",
       {{"--proportion_empty_prompts",
         &DigitSettings::proportion_empty_prompts,
         "Share of the captions that are replaced by empty ones.",
         {.check = between(0, 1)}}}},
  };
  return table;
}

}  // namespace

DigitSettings::DigitSettings() : device(torch::cuda::is_available() ? "cuda" : "cpu") {
  training.seed = 0;
  training.train_batch_size = 64;
  training.adam_beta1 = 0.9;
  training.adam_beta2 = 0.99;
  training.checkpoints_total_limit = 2;
  training.handle_signals = true;
}

void add_digit_flags(CLI::App& app, DigitSettings& settings) {
  add_flags(app, digit_flags(), settings);
  add_flags(app, training_flags(), settings.training);
}

void add_empty_prompt_flag(CLI::App& app, DigitSettings& settings) {
  add_flags(app, empty_prompt_flag(), settings);
}

void complete_digit_settings(const CLI::App& app, DigitSettings& settings) {
  TrainingConfig& training = settings.training;
  const auto is_given = [&](const char* flag) { return app.count(flag) > 0; };
  const bool has_warmup =
      training.lr_scheduler != "constant" && training.lr_scheduler != "piecewise_constant";
  if (!has_warmup && !is_given("--lr_warmup_steps")) training.lr_warmup_steps = 0;
  // These optimizers do not use the betas that the program chose for AdamW.
  if (training.optimizer == OptimizerType::kSGD || training.optimizer == OptimizerType::kAdafactor) {
    if (!is_given("--adam_beta1")) training.adam_beta1 = TrainingConfig().adam_beta1;
    if (!is_given("--adam_beta2")) training.adam_beta2 = TrainingConfig().adam_beta2;
  }
  if (is_given("--num_epochs") && !is_given("--max_train_steps")) training.max_train_steps.reset();
  training.validate();
}

std::shared_ptr<const MnistDataset> open_padded_digits(const DigitSettings& settings, Split split) {
  const int64_t resolution = *settings.training.resolution;
  if (resolution % kSideMultiple != 0)
    throw ConfigError("--resolution is " + std::to_string(resolution) + ", expected a multiple of " +
                      std::to_string(kSideMultiple));
  return std::make_shared<const MnistDataset>(
      settings.data_dir,
      MnistDatasetOptions{.split = split,
                          .resolution = resolution,
                          .pad_to_resolution = true,
                          .max_samples = split == Split::kTrain ? settings.max_train_samples : 0});
}
