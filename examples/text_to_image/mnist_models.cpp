#include "mnist_models.h"

#include <algorithm>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/io/files.h>
#include <diffusers/models/state_dict.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/training/autoencoder_losses.h>
#include <diffusers/training/autoencoder_task.h>
#include <diffusers/training/latent_encoder.h>

#include <ATen/ATen.h>

#include "clip_vocabulary.h"
#include "mnist_captions.h"

using namespace diffusers;

namespace {

constexpr int64_t kTextWidth = 64;        // of the text encoder's hidden states
constexpr int64_t kTokens = 16;           // of a prompt, with begin and end token
constexpr int64_t kDownsampling = 4;      // side of an image over that of its latents
constexpr int64_t kImagesForScale = 512;  // that the standard deviation of the latents is measured with
constexpr int64_t kReconstructions = 10;  // images in a preview

AutoencoderKLConfig vae_config(int64_t resolution) {
  return {.in_channels = 1,
          .out_channels = 1,
          .down_block_types = {"DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"},
          .up_block_types = {"UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"},
          .block_out_channels = {16, 32, 64},
          .layers_per_block = 1,
          .latent_channels = 4,
          .norm_num_groups = 8,
          .sample_size = resolution,
          .mid_block_add_attention = false};
}

UNet2DConditionModelConfig unet_config(int64_t resolution) {
  return {.sample_size = resolution / kDownsampling,
          .in_channels = 4,
          .out_channels = 4,
          .down_block_types = {"CrossAttnDownBlock2D", "CrossAttnDownBlock2D"},
          .up_block_types = {"CrossAttnUpBlock2D", "CrossAttnUpBlock2D"},
          .block_out_channels = {64, 96},
          .layers_per_block = 1,
          .norm_num_groups = 16,
          .cross_attention_dim = kTextWidth,
          .attention_head_dim = 4};
}

CLIPTextConfig text_config(const CLIPTokenizer& tokenizer) {
  return {.vocab_size = tokenizer.size(),
          .hidden_size = kTextWidth,
          .intermediate_size = 2 * kTextWidth,
          .projection_dim = kTextWidth,
          .num_hidden_layers = 2,
          .num_attention_heads = 4,
          .max_position_embeddings = kTokens,
          .pad_token_id = tokenizer.pad_token_id(),
          .bos_token_id = tokenizer.bos_token_id(),
          .eos_token_id = tokenizer.eos_token_id()};
}

/// Reads the first samples of a dataset.
Tensor first_images(const Dataset& data, int64_t count, at::Device device) {
  std::vector<int64_t> indices(static_cast<std::size_t>(std::min(count, data.size())));
  std::iota(indices.begin(), indices.end(), 0);
  return data.get_batch(indices).images.to(device);
}

/// Images in [0, 1], and their reconstructions below them.
Tensor reconstruction_rows(const AutoencoderKL& vae, const Tensor& images) {
  return (at::cat({images, vae->forward(images).sample}) / 2 + 0.5).clamp(0, 1);
}

}  // namespace

TextToImageModels make_digit_models(int64_t resolution, uint64_t seed, at::Device device) {
  manual_seed(seed);
  TextToImageModels models;
  models.tokenizer = learn_clip_tokenizer(all_captions(), {.model_max_length = kTokens});
  models.vae = AutoencoderKL(vae_config(resolution));
  models.unet = UNet2DConditionModel(unet_config(resolution));
  models.text_encoder = CLIPTextModel(text_config(models.tokenizer));
  // The scheduler samples. The training uses its noise schedule and prediction type.
  models.scheduler = DDIMScheduler({.beta_schedule = BetaSchedule::kSquaredcosCapV2,
                                    .clip_sample = false,
                                    .steps_offset = 1,
                                    .prediction_type = PredictionType::kVPrediction,
                                    .timestep_spacing = TimestepSpacing::kTrailing});
  models.vae->to(device);
  models.unet->to(device);
  models.text_encoder->to(device);
  return models;
}

TrainingConfig autoencoder_config(const TrainingConfig& training, int64_t steps) {
  return {.output_dir = join_path(training.output_dir, "autoencoder"),
          .seed = training.seed,
          .resolution = training.resolution,
          .train_batch_size = 32,
          .max_train_steps = steps,
          .learning_rate = 2e-3,
          .lr_warmup_steps = 50,
          .adam_beta1 = 0.9,
          .adam_beta2 = 0.99,
          .checkpoints_total_limit = 1,
          .logging_steps = training.logging_steps,
          .progress_bar = training.progress_bar,
          .dataloader_num_workers = training.dataloader_num_workers,
          .tensorboard = training.tensorboard,
          .report = training.report,
          .overwrite_output_dir = training.overwrite_output_dir,
          .handle_signals = training.handle_signals};
}

TrainingResult train_digit_autoencoder(const AutoencoderKL& vae, const TrainingConfig& config,
                                       const Dataset& digits) {
  const LPIPSWithDiscriminator loss(
      {.kl_weight = 1e-2, .disc_in_channels = 1, .disc_factor = 0.0, .perceptual_weight = 0.0});
  Trainer trainer(std::make_shared<AutoencoderTask>(vae, loss, AutoencoderTaskOptions{.learn_logvar = false}),
                  config);
  trainer.on_preview([&](const PreviewContext& at) {
    const Tensor images = first_images(digits, kReconstructions, vae->parameters().front().device());
    at.log_images("reconstructions", reconstruction_rows(vae, images), {.columns = images.size(0)});
  });
  return trainer.train(digits);
}

AutoencoderKL with_measured_scale(const AutoencoderKL& vae, const Dataset& digits, uint64_t seed) {
  const at::Device device = vae->parameters().front().device();
  LatentEncoder encoder(vae, {.scale_by_std = true});
  const LatentDistribution posterior =
      encoder.encode_distribution(first_images(digits, kImagesForScale, device));
  encoder.measure_scale(posterior, randn_tensor(posterior.mean.sizes(), make_generator(seed), device));
  AutoencoderKLConfig config = vae->config();
  config.scaling_factor = encoder.measured_scale().item<double>();
  AutoencoderKL scaled(config);
  scaled->to(device);
  load_state_dict(scaled, state_dict(vae));
  return scaled;
}
