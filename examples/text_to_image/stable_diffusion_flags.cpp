#include "stable_diffusion_flags.h"

#include <diffusers/core/error.h>

#include <ATen/Context.h>
#include <torch/cuda.h>

#include "../training_group.h"

using namespace diffusers;

namespace {

/// The flags of pictures with captions.
constexpr const char* kDataGroup = "Data";

const FlagTable<StableDiffusionSettings>& stable_diffusion_flags() {
  using Settings = StableDiffusionSettings;
  static const FlagTable<Settings> table{
      {"Model",
       {{"--pretrained_model_name_or_path",
         &Settings::pretrained_model_name_or_path,
         "Pipeline folder of Stable Diffusion 1.x, 2.x or XL, with model_index.json.",
         {.required = true}},
        {"--variant", &Settings::variant,
         "Variant of the weights files, such as fp16. The weights are read as float32."},
        {"--pretrained_vae_model_name_or_path",
         &Settings::pretrained_vae_model_name_or_path,
         "Folder of another VAE, with config.json. It is saved with the pipeline.",
         {.default_text = "that of the pipeline folder"}},
        {"--device",
         &Settings::device,
         "Device of the training: cpu, cuda or cuda:INDEX.",
         {.check = available_device()}}}},
      {kDataGroup,
       {{"--train_data_dir", &Settings::train_data_dir,
         "Folder of PNG and JPEG files with a metadata.jsonl or metadata.csv."},
        {"--image_column",
         &Settings::image_column,
         "Column of the image: image, the column of a folder of pictures.",
         {.check = CLI::IsMember({"image"})}},
        {"--caption_column", &Settings::caption_column,
         "Column of the captions in the metadata, or in KEY.json of --train_shards."},
        {"--image_interpolation_mode", &Settings::image_interpolation_mode,
         "Filter with which pictures are resized."},
        {"--max_train_samples",
         &Settings::max_train_samples,
         "Use only the first samples. 0 uses all.",
         {.check = at_least(0)}},
        {"--proportion_empty_prompts",
         &Settings::proportion_empty_prompts,
         "Share of the captions that are replaced by empty ones.",
         {.check = between(0, 1)}},
        {"--cache_text_embeddings", &Settings::cache_text_embeddings,
         "Encode each caption once and keep its embeddings in memory: 237 kB for each caption of Stable "
         "Diffusion 1.x, 636 kB for XL."}}},
      {"Optimizer",
       {{"--scale_lr", &Settings::scale_lr,
         "Multiply the learning rate by the batch size and the gradient accumulation steps."},
        {"--allow_tf32", &Settings::allow_tf32, "Allow TF32 matrix products on CUDA devices."}}},
      {"Logs",
       {{"--report_to",
         &Settings::report_to,
         "Experiment tracker: tensorboard.",
         {.check = available_logger()}}}},
  };
  return table;
}

}  // namespace

StableDiffusionSettings::StableDiffusionSettings() : device(torch::cuda::is_available() ? "cuda" : "cpu") {
  training.resolution = 512;
  training.learning_rate = 1e-4;
  training.lr_scheduler = "constant";
  training.adam_beta1 = 0.9;
  training.adam_weight_decay = 1e-2;
  training.use_ema_warmup = false;
  training.handle_signals = true;
}

void add_stable_diffusion_flags(CLI::App& app, StableDiffusionSettings& settings, bool has_captions) {
  for (const FlagGroup<StableDiffusionSettings>& group : stable_diffusion_flags())
    if (has_captions || group.title != kDataGroup)
      for (const Flag<StableDiffusionSettings>& flag : group.flags)
        flag.add(app, settings)->group(group.title);
  add_flags(app, training_flags(), settings.training);
}

const std::vector<RefusedFlag>& refused_stable_diffusion_flags() {
  static const std::string revisions = "the program reads a local folder, which has no revisions";
  static const std::vector<RefusedFlag> flags{
      {"--revision", revisions},
      {"--non_ema_revision", revisions},
      {"--tracker_project_name", "TensorBoard files have no project; --logging_dir names their folder"},
      {"--set_grads_to_none", "gradients are always reset in this way"},
      {"--dream_training", "the program does not have the DREAM loss"},
      {"--dream_detail_preservation", "the program does not have the DREAM loss"},
      {"--offload_ema", "the EMA weights stay on the device of the model"},
      {"--foreach_ema", "the EMA weights are always updated in this way"},
      {"--enable_npu_flash_attention", "it needs an Ascend NPU and the Python package torch_npu"},
  };
  return flags;
}

void complete_stable_diffusion(const CLI::App& app, StableDiffusionSettings& settings) {
  const bool has_data_flags = app.get_option_no_throw("--train_data_dir") != nullptr;
  if (has_data_flags && settings.train_data_dir.empty() && !settings.shards.is_given())
    throw ConfigError(
        "there is no training data; expected --train_data_dir" +
        std::string(app.get_option_no_throw("--train_shards") != nullptr ? " or --train_shards" : ""));
  check_shard_flags(app, settings.shards, {"--max_train_samples", "--mask_column"});
  // The captions of shards are in KEY.txt, unless a column is given.
  if (settings.shards.is_given() && app.count("--caption_column") == 0) settings.caption_column.clear();
  TrainingConfig& training = settings.training;
  complete_training_flags(app, training);
  // Without EMA its options are at their defaults.
  if (!training.use_ema) training.use_ema_warmup = TrainingConfig().use_ema_warmup;
  if (settings.scale_lr)
    training.learning_rate *= static_cast<double>(training.gradient_accumulation_steps *
                                                  training.train_batch_size * training_group().world_size());
  training.validate();
  if (settings.allow_tf32) at::globalContext().setAllowTF32CuBLAS(true);
}

at::ScalarType frozen_dtype(const TrainingConfig& training) {
  if (training.mixed_precision == MixedPrecision::kBf16) return at::kBFloat16;
  return training.mixed_precision == MixedPrecision::kFp16 ? at::kHalf : at::kFloat;
}

TextToImageModels load_stable_diffusion(const StableDiffusionSettings& settings, at::ScalarType dtype) {
  const ModelLoadOptions options{
      .variant = settings.variant, .dtype = dtype, .device = at::Device(settings.device)};
  TextToImageModels models =
      TextToImageModels::from_pretrained(settings.pretrained_model_name_or_path, options);
  if (!settings.pretrained_vae_model_name_or_path.empty())
    models.vae = AutoencoderKL::from_pretrained(settings.pretrained_vae_model_name_or_path, options);
  return models;
}

void require_trained_prediction(const TextToImageModels& models) {
  if (models.scheduler->prediction_type() == PredictionType::kSample)
    throw ConfigError(
        "prediction_type of the scheduler is \"sample\", which Python's scripts do not train; expected "
        "epsilon or v_prediction");
}

ImageFolderOptions picture_options(const StableDiffusionSettings& settings) {
  return {.resolution = *settings.training.resolution,
          .caption_column = settings.caption_column,
          .max_samples = settings.max_train_samples,
          .image_interpolation_mode = settings.image_interpolation_mode};
}
