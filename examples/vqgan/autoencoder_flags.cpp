#include "autoencoder_flags.h"

#include <algorithm>

#include <diffusers/core/error.h>

#include <torch/cuda.h>

#include "../train_flags.h"

using namespace diffusers;

namespace {

constexpr int64_t kPictureResolution = 256;
constexpr int64_t kIdxResolution = 32;

const FlagTable<AutoencoderSettings>& autoencoder_flags() {
  using Settings = AutoencoderSettings;
  static const FlagTable<Settings> table{
      {"Model",
       {{"--model",
         &Settings::model,
         "Autoencoder to train. kl: AutoencoderKL, written to vae/. vq: VQModel, written to vqvae/.",
         {.check = CLI::IsMember({"kl", "vq"})}},
        {"--model_config_name_or_path",
         &Settings::model_config_name_or_path,
         "config.json of the autoencoder, or the folder that contains it.",
         {.default_text = "the flags below"}},
        {"--pretrained_model_name_or_path",
         &Settings::pretrained_model_name_or_path,
         "Folder of an autoencoder whose training continues.",
         {.default_text = "new weights"}},
        {"--block_out_channels",
         &Settings::block_out_channels,
         "Channels of each level. Each level but the last halves height and width.",
         {.check = at_least(1), .default_text = "128 256 512 512 for kl, 128 256 512 for vq"}},
        {"--layers_per_block",
         &Settings::layers_per_block,
         "Number of residual blocks of a level.",
         {.check = at_least(1)}},
        {"--latent_channels",
         &Settings::latent_channels,
         "Channels of the latents.",
         {.check = at_least(1), .default_text = "4 for kl, 3 for vq"}},
        {"--num_vq_embeddings",
         &Settings::num_vq_embeddings,
         "Number of vectors of the codebook of --model vq.",
         {.check = at_least(1)}},
        {"--norm_num_groups",
         &Settings::norm_num_groups,
         "Number of groups of the group norms.",
         {.check = at_least(1)}},
        {"--mid_block_add_attention,!--no_mid_block_add_attention", &Settings::mid_block_add_attention,
         "Use attention at the lowest resolution."},
        {"--device",
         &Settings::device,
         "Device of the training: cpu, cuda or cuda:INDEX.",
         {.check = available_device()}}}},
      {"Loss",
       {{"--lpips_weights",
         &Settings::lpips_weights,
         "Safetensors file of LPIPS, which convert_lpips.py makes. dataset-classifier: the features of a "
         "small "
         "classifier that is first trained on the labels of the dataset.",
         {.default_text = "none; needs --perceptual_weight 0"}},
        {"--kl_weight", &Settings::kl_weight, "Factor of the KL divergence of --model kl."},
        {"--logvar_init", &Settings::logvar_init, "Initial output log variance of --model kl."},
        {"--no_learn_logvar", &Settings::no_learn_logvar,
         "Keep the output log variance of --model kl at --logvar_init."}}},
      {"Validation",
       {{"--num_validation_images",
         &Settings::num_validation_images,
         "Number of images whose reconstructions are drawn every --validation_steps.",
         {.check = at_least(1)}},
        {"--validation_data_dir",
         &Settings::validation_data_dir,
         "Folder of held-out PNG and JPEG files, for PSNR and LPIPS every --validation_steps.",
         {.default_text = "none; the test images of --dataset"}}}},
      {"Logs",
       {{"--report_to",
         &Settings::logger,
         "Experiment tracker: tensorboard.",
         {.check = available_logger()}}}},
  };
  return table;
}

const FlagTable<VQLPIPSWithDiscriminatorConfig>& loss_flags() {
  using Config = VQLPIPSWithDiscriminatorConfig;
  static const FlagTable<Config> table{
      {"Loss",
       {{"--perceptual_weight",
         &Config::perceptual_weight,
         "Factor of LPIPS. 0 disables it.",
         {.check = at_least(0)}},
        {"--pixel_loss", &Config::pixel_loss, "Loss of an element of the reconstruction."},
        {"--codebook_weight",
         &Config::codebook_weight,
         "Factor of the codebook loss of --model vq.",
         {.check = at_least(0)}},
        {"--disc_start",
         &Config::disc_start,
         "Step from which the discriminator is trained.",
         {.check = at_least(0)}},
        {"--disc_factor",
         &Config::disc_factor,
         "Factor of the GAN losses. 0 trains without a discriminator.",
         {.check = at_least(0)}},
        {"--disc_weight",
         &Config::disc_weight,
         "Factor of the adaptive weight of the discriminator.",
         {.check = at_least(0)}},
        {"--disc_loss", &Config::disc_loss, "Loss of the discriminator."},
        {"--disc_num_layers",
         &Config::disc_num_layers,
         "Number of convolutions with a norm in the discriminator.",
         {.check = at_least(1)}},
        {"--disc_ndf",
         &Config::disc_ndf,
         "Channels of the first convolution of the discriminator.",
         {.check = at_least(1)}},
        {"--use_actnorm", &Config::use_actnorm, "Use ActNorm in the discriminator, not batch norm."}}},
  };
  return table;
}

/// The flags of all training programs but those of the diffusion loss.
FlagTable<TrainingConfig> loop_flags() {
  FlagTable<TrainingConfig> table = training_flags();
  std::erase_if(table, [](const FlagGroup<TrainingConfig>& group) { return group.title == "Loss"; });
  return table;
}

void refuse_if(bool is_wrong, const std::string& message) {
  if (is_wrong) throw ConfigError(message);
}

/// Flags of the architecture, which a config file has as well.
constexpr const char* kModelFlags[] = {"--block_out_channels", "--layers_per_block",
                                       "--latent_channels",    "--num_vq_embeddings",
                                       "--norm_num_groups",    "--mid_block_add_attention"};

void check_autoencoder_flags(const CLI::App& app, AutoencoderSettings& settings) {
  const auto is_given = [&](const char* flag) { return app.count(flag) > 0; };
  check_data_flags(app, settings.data);
  refuse_if(is_given("--model_config_name_or_path") && is_given("--pretrained_model_name_or_path"),
            "--model_config_name_or_path and --pretrained_model_name_or_path exclude each other; found both");
  for (const char* flag : kModelFlags)
    refuse_if(settings.has_config() && is_given(flag),
              std::string(flag) +
                  " has no effect with the config of --model_config_name_or_path or "
                  "--pretrained_model_name_or_path");
  for (const char* flag : {"--kl_weight", "--logvar_init", "--no_learn_logvar"})
    refuse_if(!settings.is_kl() && is_given(flag), std::string(flag) + " needs --model kl");
  for (const char* flag : {"--codebook_weight", "--num_vq_embeddings"})
    refuse_if(settings.is_kl() && is_given(flag), std::string(flag) + " needs --model vq");
  for (const char* flag :
       {"--disc_start", "--disc_weight", "--disc_loss", "--disc_num_layers", "--disc_ndf", "--use_actnorm"})
    refuse_if(settings.loss.disc_factor == 0 && is_given(flag),
              std::string(flag) + " has no effect with --disc_factor 0");
  refuse_if(settings.loss.perceptual_weight > 0 && settings.lpips_weights.empty(),
            "--perceptual_weight is above 0, but there is no --lpips_weights; make the file with "
            "convert_lpips.py, take --lpips_weights dataset-classifier for images with labels, or train "
            "without LPIPS by --perceptual_weight 0");
  for (const char* flag : {"--num_validation_images", "--validation_data_dir"})
    refuse_if(is_given(flag) && settings.training.validation_steps == 0,
              std::string(flag) + " needs --validation_steps");
  refuse_if(settings.data.is_idx() && is_given("--validation_data_dir"),
            "--validation_data_dir needs --train_data_dir; --dataset " + settings.data.dataset +
                " has its own test images");
}

}  // namespace

AutoencoderSettings::AutoencoderSettings() : device(torch::cuda::is_available() ? "cuda" : "cpu") {
  training.output_dir = "autoencoder-model";
  training.learning_rate = 4.5e-6;
  training.lr_scheduler = "constant";
  training.lr_warmup_steps = 0;
  training.optimizer = OptimizerType::kAdam;
  training.adam_beta1 = 0.5;
  training.adam_beta2 = 0.9;
  training.adam_weight_decay = 0.0;
  training.max_grad_norm = 0.0;
  training.validation_bins = 1;
  training.handle_signals = true;
}

void add_autoencoder_flags(CLI::App& app, AutoencoderSettings& settings) {
  add_data_flags(app, settings.data);
  add_flags(app, autoencoder_flags(), settings);
  add_flags(app, loss_flags(), settings.loss);
  // The flags outlive the table: each keeps a pointer to its field alone.
  add_flags(app, loop_flags(), settings.training);
}

void complete_autoencoder_settings(const CLI::App& app, AutoencoderSettings& settings) {
  check_autoencoder_flags(app, settings);
  TrainingConfig& training = settings.training;
  complete_training_flags(app, training);
  if (!training.resolution)
    training.resolution = settings.data.is_idx() ? kIdxResolution : kPictureResolution;
  // No bins of a noise schedule where nothing is validated.
  if (training.validation_steps == 0) training.validation_bins = TrainingConfig().validation_bins;
  training.validate();
}
