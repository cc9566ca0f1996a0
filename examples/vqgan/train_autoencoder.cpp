// Trains an AutoencoderKL or a VQModel with LPIPS and a PatchGAN discriminator, as latent-diffusion does, and
// writes a model folder that Python opens with AutoencoderKL.from_pretrained or VQModel.from_pretrained.

#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/data/image_folder.h>
#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/vq_model.h>
#include <diffusers/training/autoencoder_task.h>
#include <diffusers/training/trainer.h>

#include "../program.h"
#include "../train_flags.h"
#include "../training_data.h"
#include "../training_group.h"
#include "../unconditional_image_generation/classifier.h"
#include "autoencoder_flags.h"

using namespace diffusers;

namespace {

std::string config_text(const std::string& path) {
  return folder_exists(path) ? read_model_file(path, "config.json") : read_text_file(path);
}

/// Sets the fields that both models have.
template <class Config>
void set_architecture(const AutoencoderSettings& settings, int64_t channels, Config& config) {
  const std::vector<int64_t> widths =
      settings.is_kl() ? std::vector<int64_t>{128, 256, 512, 512} : std::vector<int64_t>{128, 256, 512};
  config.block_out_channels = settings.block_out_channels.empty() ? widths : settings.block_out_channels;
  config.down_block_types.assign(config.block_out_channels.size(), "DownEncoderBlock2D");
  config.up_block_types.assign(config.block_out_channels.size(), "UpDecoderBlock2D");
  config.in_channels = config.out_channels = channels;
  config.layers_per_block = settings.layers_per_block;
  config.latent_channels = settings.latent_channels.value_or(settings.is_kl() ? 4 : 3);
  config.norm_num_groups = settings.norm_num_groups;
  config.sample_size = *settings.training.resolution;
  config.mid_block_add_attention = settings.mid_block_add_attention;
}

AutoencoderKLConfig kl_config(const AutoencoderSettings& settings, int64_t channels) {
  AutoencoderKLConfig config;
  set_architecture(settings, channels, config);
  return config;
}

VQModelConfig vq_config(const AutoencoderSettings& settings, int64_t channels) {
  VQModelConfig config;
  set_architecture(settings, channels, config);
  config.num_vq_embeddings = settings.num_vq_embeddings;
  return config;
}

/// The model that the flags name, with new or loaded weights.
template <class Model, class MakeConfig>
Model make_autoencoder(const AutoencoderSettings& settings, MakeConfig make_config) {
  if (!settings.pretrained_model_name_or_path.empty())
    return Model::from_pretrained(settings.pretrained_model_name_or_path);
  if (!settings.model_config_name_or_path.empty())
    return Model::from_config(config_text(settings.model_config_name_or_path));
  return Model(make_config(settings, settings.data.is_idx() ? 1 : 3));
}

/// Opens the data with the model's channels: image files are read as gray or as RGB.
template <class Model>
TrainingData open_data_for(const AutoencoderSettings& settings, Model& model) {
  const int64_t resolution = *settings.training.resolution;
  const int64_t channels = model->config().in_channels;
  TrainingData data = open_training_data(settings.data, resolution, channels);
  if (data.channels != channels)
    throw ConfigError("--model_config_name_or_path: the model has in_channels " + std::to_string(channels) +
                      ", expected " + std::to_string(data.channels) + ", the channels of " +
                      settings.data.flag());
  const auto halvings = static_cast<int64_t>(model->config().block_out_channels.size()) - 1;
  const int64_t factor = int64_t{1} << std::min<int64_t>(halvings, 32);
  if (resolution % factor != 0)
    throw ConfigError("--resolution is " + std::to_string(resolution) + ", expected a multiple of " +
                      std::to_string(factor) + ", since the model has " + std::to_string(halvings + 1) +
                      " levels");
  if (!settings.validation_data_dir.empty())
    data.held_out = std::make_unique<ImageFolder>(
        settings.validation_data_dir,
        ImageFolderOptions{.resolution = resolution, .center_crop = true, .channels = channels});
  return data;
}

/// The features of a classifier's convolutions.
class ClassifierFeatures : public LPIPSFeatures {
 public:
  explicit ClassifierFeatures(Classifier classifier)
      : LPIPSFeatures(kDatasetClassifier),
        classifier_(register_module("classifier", std::move(classifier))) {}
  std::vector<Tensor> features(const Tensor& images) override { return classifier_->feature_maps(images); }

 private:
  Classifier classifier_;
};

/// Trains the classifier that stands in for LPIPS. A resumed training reads the classifier that it began
/// with.
LPIPS classifier_lpips(const AutoencoderSettings& settings, const TrainingData& data) {
  if (data.num_classes < 2)
    throw ConfigError(
        "--lpips_weights dataset-classifier needs images with labels of two classes or more; "
        "found " +
        std::to_string(data.num_classes) + " classes in " + settings.data.folder() +
        ", whose sub-folders with images would be the classes");
  const Dataset& images = data.train.dataset();
  const TrainingConfig& training = settings.training;
  const std::string file = join_path(training.output_dir, "classifier.safetensors");
  create_folders(training.output_dir);
  Classifier classifier = nullptr;
  in_turn([&] {
    if (!training.resume_from_checkpoint && training_group().is_main()) remove_file(file);
    classifier = trained_classifier(images, {.num_classes = data.num_classes,
                                             .channels = data.channels,
                                             .cache_file = file,
                                             .purpose = "whose features LPIPS compares",
                                             .device = at::Device(settings.device)});
  });
  return LPIPS(std::make_shared<ClassifierFeatures>(classifier));
}

LPIPS load_lpips(const AutoencoderSettings& settings, const TrainingData& data) {
  if (settings.lpips_weights.empty()) return nullptr;
  if (settings.compares_classifier()) return classifier_lpips(settings, data);
  return LPIPS::from_pretrained(settings.lpips_weights);
}

LPIPSWithDiscriminatorConfig kl_loss_config(const AutoencoderSettings& settings, int64_t channels) {
  const VQLPIPSWithDiscriminatorConfig& loss = settings.loss;
  return {.disc_start = loss.disc_start,
          .logvar_init = settings.logvar_init,
          .kl_weight = settings.kl_weight,
          .disc_num_layers = loss.disc_num_layers,
          .disc_in_channels = channels,
          .disc_factor = loss.disc_factor,
          .disc_weight = loss.disc_weight,
          .perceptual_weight = loss.perceptual_weight,
          .use_actnorm = loss.use_actnorm,
          .disc_loss = loss.disc_loss,
          .pixel_loss = loss.pixel_loss};
}

Tensor first_images(const Dataset& data, int64_t count) {
  std::vector<int64_t> indices(static_cast<std::size_t>(std::min(count, data.size())));
  std::iota(indices.begin(), indices.end(), 0);
  return data.get_batch(indices, 0).images;
}

/// Images and their reconstructions below them, in [0, 1].
template <class Model>
Tensor reconstruction_rows(Model& model, const Tensor& on_host, at::Device device) {
  const Tensor images = on_host.to(device);
  const Tensor made = model->forward(images).sample;
  return (torch::cat({images, made}) / 2 + 0.5).clamp(0, 1);
}

template <class Model>
int train(Model model, const std::shared_ptr<AutoencoderTask>& task, const AutoencoderSettings& settings,
          const TrainingData& data) {
  const at::Device device(settings.device);
  std::printf("%s with %lld parameters on %s, %s\n", std::string(model->class_name()).c_str(),
              static_cast<long long>(model->num_parameters()), device.str().c_str(),
              data.train.description().c_str());
  const bool is_validated = data.held_out && settings.training.validation_steps > 0;
  TrainingConfig config = trainer_config(settings.training, settings.data.shards);
  // The one bin that the program presets has a meaning for held-out data alone.
  if (!is_validated && config.validation_bins == 1) config.validation_bins = TrainingConfig().validation_bins;
  Trainer trainer(task, config, training_group());
  trainer.on_preview([&](const PreviewContext& at) {
    const int64_t count = settings.num_validation_images;
    const Tensor shown = data.held_out ? first_images(*data.held_out, count) : data.train.first(count).images;
    const Tensor rows = reconstruction_rows(model, shown, device);
    at.log_images("reconstructions", rows, {.columns = rows.size(0) / 2});
  });
  return exit_code(data.train.train(trainer, is_validated ? data.held_out.get() : nullptr));
}

/// Weights are drawn in the order model, discriminator.
int train_kl(AutoencoderSettings& settings) {
  AutoencoderKL model = make_autoencoder<AutoencoderKL>(settings, kl_config);
  const TrainingData data = open_data_for(settings, model);
  const LPIPSWithDiscriminatorConfig config = kl_loss_config(settings, data.channels);
  NLayerDiscriminator disc = nullptr;
  if (config.disc_factor > 0)
    disc = NLayerDiscriminator({.input_nc = data.channels,
                                .ndf = settings.loss.disc_ndf,
                                .n_layers = config.disc_num_layers,
                                .use_actnorm = config.use_actnorm});
  const LPIPSWithDiscriminator loss(config, load_lpips(settings, data), disc);
  model->to(at::Device(settings.device));
  return train(model,
               std::make_shared<AutoencoderTask>(
                   model, loss, AutoencoderTaskOptions{.learn_logvar = !settings.no_learn_logvar}),
               settings, data);
}

int train_vq(AutoencoderSettings& settings) {
  VQModel model = make_autoencoder<VQModel>(settings, vq_config);
  const TrainingData data = open_data_for(settings, model);
  settings.loss.disc_in_channels = data.channels;
  const VQLPIPSWithDiscriminator loss(settings.loss, load_lpips(settings, data));
  model->to(at::Device(settings.device));
  return train(model, std::make_shared<AutoencoderTask>(model, loss), settings, data);
}

int run(int argc, char** argv) {
  AutoencoderSettings settings;
  CLI::App app("Trains an AutoencoderKL or a VQModel with LPIPS and a PatchGAN discriminator");
  add_autoencoder_flags(app, settings);
  refuse_python_flags(app, argc, argv);
  parse_or_exit(app, argc, argv);
  complete_autoencoder_settings(app, settings);
  if (settings.training.seed) manual_seed(static_cast<uint64_t>(*settings.training.seed));
  return settings.is_kl() ? train_kl(settings) : train_vq(settings);
}

}  // namespace

int main(int argc, char** argv) { return run_program("train_autoencoder", run, argc, argv); }
