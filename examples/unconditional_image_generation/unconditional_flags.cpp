#include "unconditional_flags.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/logging.h>
#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>

#include <torch/cuda.h>

#include "../train_flags.h"

using namespace diffusers;

namespace {

/// A gamma above every SNR of a schedule, so that the weight of the x_0 error, min(SNR, gamma), is the SNR.
constexpr double kUnlimitedSnr = 1e30;
constexpr double kMostEpochs = 1e9;

const FlagTable<UnconditionalSettings>& unconditional_flags() {
  using Settings = UnconditionalSettings;
  static const FlagTable<Settings> table{
      {"Data",
       {{"--class_conditional", &Settings::class_conditional,
         "Train with the class labels of the dataset, and draw samples with classifier-free guidance."}}},
      {"Model",
       {{"--model_config_name_or_path",
         &Settings::model_config_name_or_path,
         "config.json of a UNet2DModel, or the folder that contains it.",
         {.default_text = "the program's model"}},
        {"--device",
         &Settings::device,
         "Device of the training: cpu, cuda or cuda:INDEX.",
         {.check = available_device()}}}},
      {"Samples",
       {{"--eval_batch_size",
         &Settings::eval_batch_size,
         "Number of samples that are drawn for evaluation.",
         {.check = at_least(1)}},
        {"--ddpm_num_inference_steps",
         &Settings::ddpm_num_inference_steps,
         "Number of denoising steps of these samples.",
         {.check = at_least(1)}},
        {"--guidance_scale",
         &Settings::guidance_scale,
         "Scale of the classifier-free guidance. 1 or less disables it. Needs --class_conditional.",
         {.check = at_least(0)}},
        {"--save_images_epochs",
         &Settings::save_images_epochs,
         "Number of epochs between two previews. --validation_steps counts in steps instead.",
         {.check = between(1, kMostEpochs), .default_text = "from --validation_steps"}},
        {"--save_model_epochs",
         &Settings::save_model_epochs,
         "Number of epochs after which the pipeline is saved, at the next preview. It is always saved at the "
         "end.",
         {.check = between(1, kMostEpochs), .default_text = "at the end"}},
        {"--logger", &Settings::logger, "Experiment tracker: tensorboard.", {.check = available_logger()}},
        {"--report_to", &Settings::logger, "Another name of --logger.", {.check = available_logger()}}}},
  };
  return table;
}

void refuse(bool is_wrong, const std::string& message) {
  if (is_wrong) throw ConfigError(message);
}

/// Throws for flags that would have no effect.
void check_flags(const CLI::App& app, UnconditionalSettings& settings) {
  const auto is_given = [&](const char* flag) { return app.count(flag) > 0; };
  check_data_flags(app, settings.data);
  for (const char* flag : {"--guidance_scale", "--class_dropout_prob"})
    refuse(!settings.class_conditional && is_given(flag), std::string(flag) + " needs --class_conditional");
  refuse(is_given("--save_images_epochs") && is_given("--validation_steps"),
         "--save_images_epochs and --validation_steps exclude each other; found both");
  refuse(is_given("--save_model_epochs") && is_given("--validation_steps") &&
             settings.training.validation_steps == 0,
         "--save_model_epochs needs previews before the end, which --validation_steps 0 switches off");
}

/// Fills in defaults that depend on other flags.
void complete_training(const CLI::App& app, UnconditionalSettings& settings) {
  const auto is_given = [&](const char* flag) { return app.count(flag) > 0; };
  TrainingConfig& training = settings.training;
  const int64_t ddpm_steps = settings.scheduler.num_train_timesteps;
  if (!is_given("--ddpm_num_inference_steps"))
    settings.ddpm_num_inference_steps = std::min(settings.ddpm_num_inference_steps, ddpm_steps);
  refuse(settings.ddpm_num_inference_steps > ddpm_steps,
         "--ddpm_num_inference_steps is " + std::to_string(settings.ddpm_num_inference_steps) +
             ", expected 1 to " + std::to_string(ddpm_steps) + ", the value of --ddpm_num_steps");
  if (training.timestep_bias_strategy == TimestepBias::kRange && !is_given("--timestep_bias_end"))
    training.timestep_bias_end = std::min(training.timestep_bias_end, ddpm_steps);
  // The Python script weights this loss by the SNR.
  if (settings.scheduler.prediction_type == PredictionType::kSample && !is_given("--snr_gamma") &&
      !is_given("--weighting"))
    training.snr_gamma = kUnlimitedSnr;
  complete_training_flags(app, training);
  if (is_given("--validation_steps")) settings.save_images_epochs.reset();
  if (settings.data.shards.is_given() && settings.data.shards.num_train_samples == 0)
    for (auto& [flag, epochs] : {std::pair("--save_images_epochs", &settings.save_images_epochs),
                                 std::pair("--save_model_epochs", &settings.save_model_epochs)})
      if (!is_given(flag)) epochs->reset();
  // An explicit false, so that the Trainer does not warn about unused labels.
  settings.task.class_conditional = settings.class_conditional;
  if (settings.class_conditional && !is_given("--class_dropout_prob")) settings.task.class_dropout_prob = 0.1;
}

void read_model(UnconditionalSettings& settings) {
  const std::string& path = settings.model_config_name_or_path;
  const std::string text = folder_exists(path) ? read_model_file(path, "config.json") : read_text_file(path);
  settings.model = UNet2DModel::from_config(text)->config();
}

/// Returns the side of the images: that of the flag, else that of the model, else `default_resolution`.
int64_t choose_resolution(const UnconditionalSettings& settings, int64_t default_resolution) {
  const int64_t flag = settings.training.resolution.value_or(0);
  const std::vector<int64_t>& of_model = settings.model.sample_size.values();
  if (!settings.has_model_config() || of_model.empty()) return flag > 0 ? flag : default_resolution;
  const bool is_square = of_model.front() == of_model.back();
  refuse(flag == 0 && !is_square,
         "--model_config_name_or_path: sample_size is " + std::to_string(of_model.front()) + " x " +
             std::to_string(of_model.back()) + ", expected a square; --resolution sets another one");
  if (flag > 0 && (!is_square || of_model.front() != flag))
    log_message(LogLevel::kWarning, "--resolution " + std::to_string(flag) + " replaces sample_size " +
                                        std::to_string(of_model.front()) + " of --model_config_name_or_path");
  return flag > 0 ? flag : of_model.front();
}

/// Checks that the resolution can be halved by each block except the last one.
void check_resolution(const UnconditionalSettings& settings, int64_t resolution) {
  const std::size_t halvings = settings.model.block_out_channels.size() - 1;
  const int64_t factor = halvings < 32 ? int64_t{1} << halvings : resolution + 1;
  refuse(resolution % factor != 0, "--resolution is " + std::to_string(resolution) +
                                       ", expected a multiple of " + std::to_string(factor) +
                                       ", since the model has " + std::to_string(halvings + 1) +
                                       " blocks; --model_config_name_or_path sets another model");
}

}  // namespace

UnconditionalSettings::UnconditionalSettings()
    : device(torch::cuda::is_available() ? "cuda" : "cpu"),
      model{.down_block_types = {"DownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D",
                                 "AttnDownBlock2D", "DownBlock2D"},
            .up_block_types = {"UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D",
                               "UpBlock2D"},
            .block_out_channels = {128, 128, 256, 256, 512, 512},
            .layers_per_block = 2} {}

void add_unconditional_flags(CLI::App& app, UnconditionalSettings& settings) {
  add_data_flags(app, settings.data);
  add_flags(app, unconditional_flags(), settings);
  add_flags(app, scheduler_flags(), settings.scheduler);
  add_flags(app, training_flags(), settings.training);
  add_flags(app, task_flags(), settings.task);
}

void complete_settings(const CLI::App& app, UnconditionalSettings& settings, int64_t default_resolution) {
  check_flags(app, settings);
  complete_training(app, settings);
  settings.training.validate();
  if (settings.has_model_config()) read_model(settings);
  const int64_t resolution = choose_resolution(settings, default_resolution);
  check_resolution(settings, resolution);
  settings.model.sample_size = resolution;
  settings.training.resolution = resolution;
}
