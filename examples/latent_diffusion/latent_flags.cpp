#include "latent_flags.h"

#include <diffusers/core/error.h>

#include <torch/cuda.h>

#include "../train_flags.h"

using namespace diffusers;

namespace {

const FlagTable<LatentSettings>& latent_flags() {
  using Settings = LatentSettings;
  static const FlagTable<Settings> table{
      {"Latents",
       {{"--vae",
         &Settings::vae,
         "Folder of an AutoencoderKL or a VQModel, or a pipeline folder with vae/ or vqvae/. It stays "
         "frozen.",
         {.required = true}},
        {"--scale_by_std", &Settings::scale_by_std,
         "Scale the latents by 1 / std of the first batch, instead of the autoencoder's scaling_factor."},
        {"--latent_cache", &Settings::latent_cache,
         "Folder that keeps the means and variances of the latents, so that each image is encoded once."},
        {"--latent_cache_format", &Settings::latent_cache_format,
         "Form of the files of --latent_cache: safetensors, or tar, the shards of a WebDataset."}}},
      {"Conditioning",
       {{"--conditioning_key", &Settings::conditioning_key,
         "How the model receives its conditioning: crossattn takes captions, adm class labels, concat images "
         "behind the latents, hybrid captions and images."},
        {"--concat_input", &Settings::concat_input,
         "Images of concat and hybrid: conditioning images averaged down or encoded, or mask and masked "
         "image."},
        {"--text_encoder",
         &Settings::text_encoder,
         "Pipeline folder with text_encoder/ and tokenizer/, for the captions of crossattn and hybrid.",
         {}},
        {"--conditioning_dropout_prob",
         &Settings::conditioning_dropout_prob,
         "Share of the samples whose captions and images are dropped, for classifier-free guidance.",
         {.check = between(0, 0.999)}}}},
      {"Data",
       {{"--caption_column",
         &Settings::caption_column,
         "Column of the captions in the metadata of --train_data_dir, or in KEY.json of --train_shards.",
         {.default_text = "text"}},
        {"--conditioning_image_column", &Settings::conditioning_image_column,
         "Column of the conditioning images in the metadata of --train_data_dir."},
        {"--mask_column", &Settings::mask_column,
         "Column of the inpainting masks in the metadata of --train_data_dir, white where an image is to be "
         "inpainted."}}},
      {"Model",
       {{"--model_config_name_or_path",
         &Settings::model_config_name_or_path,
         "config.json of a UNet2DModel or a UNet2DConditionModel, or the folder that contains it.",
         {.default_text = "the program's model"}},
        {"--device",
         &Settings::device,
         "Device of the training: cpu, cuda or cuda:INDEX.",
         {.check = available_device()}}}},
      {"Samples",
       {{"--eval_batch_size",
         &Settings::eval_batch_size,
         "Number of samples that are drawn for previews.",
         {.check = at_least(1)}},
        {"--num_inference_steps",
         &Settings::num_inference_steps,
         "Number of denoising steps of these samples.",
         {.check = at_least(1)}},
        {"--guidance_scale",
         &Settings::guidance_scale,
         "Scale of the classifier-free guidance of these samples. 1 or less disables it.",
         {.check = at_least(0)}},
        {"--num_evaluation_samples",
         &Settings::num_evaluation_samples,
         "Number of samples that a classifier judges after a training with --dataset and --conditioning_key "
         "adm. 0 disables it.",
         {.check = at_least(0)}},
        {"--report_to",
         &Settings::logger,
         "Experiment tracker: tensorboard.",
         {.check = available_logger()}}}},
  };
  return table;
}

void refuse_latent(bool is_wrong, const std::string& message) {
  if (is_wrong) throw ConfigError(message);
}

}  // namespace

LatentSettings::LatentSettings()
    : device(torch::cuda::is_available() ? "cuda" : "cpu"),
      scheduler{.beta_start = 0.0015,
                .beta_end = 0.0195,
                .beta_schedule = BetaSchedule::kScaledLinear,
                .clip_sample = false,
                .steps_offset = 1} {
  training.validation_steps = 1000;
}

bool LatentSettings::attends() const {
  return conditioning_key == ConditioningKey::kCrossattn || conditioning_key == ConditioningKey::kHybrid;
}

bool LatentSettings::concatenates() const {
  return conditioning_key == ConditioningKey::kConcat || conditioning_key == ConditioningKey::kHybrid;
}

bool LatentSettings::inpaints() const { return concatenates() && concat_input == ConcatInput::kInpainting; }

bool LatentSettings::evaluates() const {
  return data.is_idx() && conditioning_key == ConditioningKey::kAdm && num_evaluation_samples > 0;
}

void add_latent_flags(CLI::App& app, LatentSettings& settings) {
  add_data_flags(app, settings.data);
  add_flags(app, latent_flags(), settings);
  add_flags(app, scheduler_flags(), settings.scheduler);
  add_flags(app, training_flags(), settings.training);
  add_flags(app, task_flags(), settings.task);
}

void complete_latent_settings(const CLI::App& app, LatentSettings& settings) {
  const auto is_given = [&](const char* flag) { return app.count(flag) > 0; };
  const std::string key = "--conditioning_key " + std::string(settings.conditioning_key.name());
  check_data_flags(app, settings.data, {"--conditioning_image_column", "--mask_column"});
  refuse_latent(settings.data.is_idx() && is_given("--caption_column"),
                "--caption_column needs --train_data_dir; found " + settings.data.flag());
  refuse_latent(settings.attends() && settings.text_encoder.empty(),
                "--text_encoder is missing; " + key + " embeds captions with it");
  refuse_latent(!settings.attends() && !settings.text_encoder.empty(),
                "--text_encoder needs --conditioning_key crossattn or hybrid; found " + key);
  refuse_latent(settings.data.is_idx() && (settings.attends() || settings.concatenates()),
                key + " needs captions or images of --train_data_dir; found " + settings.data.flag());
  refuse_latent(!settings.concatenates() && is_given("--concat_input"),
                "--concat_input needs --conditioning_key concat or hybrid; found " + key);
  refuse_latent(settings.inpaints() && settings.mask_column.empty(),
                "--mask_column is missing; --concat_input inpainting needs masks");
  refuse_latent(settings.concatenates() && !settings.inpaints() && settings.conditioning_image_column.empty(),
                "--conditioning_image_column is missing; " + key + " needs conditioning images");
  refuse_latent(settings.guidance_scale > 1 && settings.conditioning_key == ConditioningKey::kNone,
                "--guidance_scale needs a --conditioning_key other than none");
  refuse_latent(settings.latent_cache.empty() && is_given("--latent_cache_format"),
                "--latent_cache_format needs --latent_cache");
  refuse_latent(
      !settings.latent_cache.empty() && settings.data.shards.is_given(),
      "--latent_cache needs --train_data_dir or --dataset, since the samples of --train_shards have no "
      "positions by which latents are found");
  refuse_latent(!settings.latent_cache.empty() && !settings.data.is_idx() && !settings.data.center_crop,
                "--latent_cache needs --center_crop, since a random crop gives other images in each epoch");
  refuse_latent(
      is_given("--num_evaluation_samples") && settings.num_evaluation_samples > 0 && !settings.evaluates(),
      "--num_evaluation_samples needs --dataset and --conditioning_key adm, since the classifier is "
      "trained on the labels of --dataset");
  refuse_latent(
      settings.num_evaluation_samples == 1,
      "--num_evaluation_samples is 1, expected 0 or at least 2, since the samples are compared with "
      "the test images");
  TrainingConfig& training = settings.training;
  complete_training_flags(app, training);
  // Where there is no other conditioning, guidance needs a class that means "no class".
  if (settings.conditioning_key == ConditioningKey::kAdm && !is_given("--class_dropout_prob"))
    settings.task.class_dropout_prob = 0.1;
  training.validate();
}
