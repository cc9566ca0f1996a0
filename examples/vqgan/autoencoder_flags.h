#pragma once

// The command line of train_autoencoder.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/training/autoencoder_losses.h>
#include <diffusers/training/training_config.h>

#include "../training_data.h"

/// The `--lpips_weights` that stands for the features of a classifier of the dataset.
inline constexpr const char* kDatasetClassifier = "dataset-classifier";

/// Values of the flags. The defaults are those of latent-diffusion's configs for autoencoders.
struct AutoencoderSettings {
  std::string model = "kl";                        ///< kl or vq
  std::string model_config_name_or_path = {};      ///< config.json of the model; empty: the fields below
  std::string pretrained_model_name_or_path = {};  ///< folder of a model to go on with
  std::vector<int64_t> block_out_channels = {};    ///< empty: latent-diffusion's, by `model`
  int64_t layers_per_block = 2;
  std::optional<int64_t> latent_channels = std::nullopt;  ///< none: 4 for kl, 3 for vq
  int64_t num_vq_embeddings = 8192;
  int64_t norm_num_groups = 32;
  bool mid_block_add_attention = true;
  bool no_learn_logvar = false;
  std::string lpips_weights = {};  ///< safetensors file, or `kDatasetClassifier`
  double kl_weight = 1e-6;
  double logvar_init = 0.0;
  /// The fields that both losses have, `codebook_weight` and `disc_ndf`.
  diffusers::VQLPIPSWithDiscriminatorConfig loss = {.disc_start = 50001, .disc_weight = 0.5};
  int64_t num_validation_images = 8;
  std::string validation_data_dir = {};  ///< folder of held-out pictures; empty: none
  DataSettings data = {};
  std::string device;  ///< CUDA if there is a device
  std::string logger = "tensorboard";
  diffusers::TrainingConfig training = {};

  AutoencoderSettings();

  bool is_kl() const { return model == "kl"; }
  /// Whether LPIPS compares the features of a classifier of the dataset.
  bool compares_classifier() const { return lpips_weights == kDatasetClassifier; }
  /// Whether config.json of the model comes from a file.
  bool has_config() const {
    return !model_config_name_or_path.empty() || !pretrained_model_name_or_path.empty();
  }
};

/// Adds the flags of train_autoencoder.
/// @param settings holds the defaults; must outlive the parsing
void add_autoencoder_flags(CLI::App& app, AutoencoderSettings& settings);

/// Checks how the flags fit together, and fills in what follows from them.
/// @throws diffusers::ConfigError naming the flag
void complete_autoencoder_settings(const CLI::App& app, AutoencoderSettings& settings);
