#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/diagonal_gaussian.h>
#include <diffusers/models/vq_model.h>
#include <diffusers/training/autoencoder_losses.h>
#include <diffusers/training/step_rows.h>
#include <diffusers/training/task.h>

namespace diffusers {

/// Options of an AutoencoderTask. A training is resumed only with the options that it was started with.
struct AutoencoderTaskOptions {
  /// Trains the output log variance of an AutoencoderKL with the autoencoder. False keeps `logvar_init`, as
  /// for the autoencoders of Stable Diffusion.
  bool learn_logvar = true;
};

/// Trains an AutoencoderKL or a VQModel (Rombach et al. 2022; Esser et al. 2021). A step has two updates:
///
/// | update          | trained modules            | runs                                            |
/// |-----------------|----------------------------|-------------------------------------------------|
/// | `generator`     | the autoencoder, `logvar`  | always                                          |
/// | `discriminator` | `discriminator`            | from `disc_start` on, unless `disc_factor` is 0 |
///
/// Each update reconstructs the images anew, with its own posterior noise, as latent-diffusion does. Before
/// `disc_start` the discriminator is not run at all. The Trainer writes the autoencoder as an ordinary model
/// folder, and `logvar/` and `discriminator/` beside it.
///
/// The log has `rec_loss`, `p_loss` (LPIPS), `nll_loss`, `g_loss`, `d_weight`, `psnr` in decibels; `kl_loss`
/// and `logvar`, or `codebook_loss`, `perplexity` and `codebook_usage`; and the gradient norms of the terms
/// before their weights: `rec_grad_norm`, `p_grad_norm`, `nll_grad_norm` and `g_grad_norm` in the last layer,
/// `kl_grad_norm` in the moments of the posterior, `codebook_grad_norm` in the latents.
///
/// `perplexity` is exp of the entropy of the codes of a batch, `codebook_usage` the share of the codes that
/// occur in it.
///
/// With several processes, the statistics of the discriminator, d_weight and the logged values are those of
/// the batch of all processes together.
class AutoencoderTask : public Task {
 public:
  /// @param vae the model to train; shared, not copied
  /// @param loss the loss with its networks; shared. The Trainer moves them to the device and dtype of the
  ///   model.
  /// @param options options of the task
  /// @param name folder of the model in `output_dir`
  /// @throws ConfigError naming the field that does not fit the model
  explicit AutoencoderTask(AutoencoderKL vae, LPIPSWithDiscriminator loss,
                           const AutoencoderTaskOptions& options = {}, std::string name = "vae");
  /// @param vq the model to train; shared, not copied
  /// @param loss the loss with its networks; shared. The Trainer moves them to the device and dtype of the
  ///   model.
  /// @param options options of the task
  /// @param name folder of the model in `output_dir`
  /// @throws ConfigError naming the field that does not fit the model
  explicit AutoencoderTask(VQModel vq, VQLPIPSWithDiscriminator loss,
                           const AutoencoderTaskOptions& options = {}, std::string name = "vqvae");

  /// @return the autoencoder, `logvar` if it is learned, and `discriminator` unless disc_factor is 0
  const std::vector<NamedModule>& trained() const override { return trained_; }
  /// @return LPIPS, if there is one
  std::vector<NamedModule> frozen() const override;
  /// @param config gives both updates their optimizer
  /// @return the updates of the table above
  std::vector<Update> updates(const TrainingConfig& config) const override;
  /// @param config the flags of the training
  /// @throws ConfigError for a flag that concerns diffusion, and for cpu_data_parallel, since the parts of a
  ///   batch would have statistics of their own
  void configure(const TrainingConfig& config) override;
  /// @return an obstacle: the statistics of the discriminator and its adaptive weight are those of whole
  ///   batches
  BatchSplit batch_split() const override;
  /// @return an obstacle for accumulated batches with a discriminator, each of which has its own statistics
  ///   and its own adaptive weight
  std::string process_obstacle() const override;
  /// @param batch images `[B, C, H, W]` with the model's channels, height and width multiples of
  ///   `2^(blocks - 1)`
  /// @throws TensorError or ConfigError naming the expected and the actual shape
  void check_batch(const Batch& batch) override;
  /// @param context draws the posterior noise of the step
  void begin_step(const StepContext& context) override;
  /// Computes the loss of one update.
  /// @param batch images in [-1, 1] on the device of the model
  /// @param update 0: generator, 1: discriminator
  /// @return the loss and the values for the log
  StepLoss loss(const Batch& batch, std::size_t update) override;
  /// Reconstructs held-out images from the mode of the posterior.
  /// @param batch as for `loss`
  /// @return pixel loss + perceptual_weight LPIPS of each sample, `[B]`; the values `rec_loss`, `psnr` in
  ///   decibels, `lpips` if there is an LPIPS, and `kl_loss`, or `codebook_loss`, `perplexity` and
  ///   `codebook_usage`
  StepLoss validate(const Batch& batch) const;
  /// Computes the same for the Trainer, which logs the mean of each value over the held-out images.
  /// `perplexity` and `codebook_usage` are means over the batches.
  /// @param batch as for `loss`
  /// @param positions not used
  /// @param generator not used
  /// @return `validate(batch)`
  StepLoss validate(const Batch& batch, const Tensor& positions, const Generator& generator) override;
  /// @param batch as for `loss`
  /// @param positions not used
  /// @param generator not used
  /// @return the loss of `validate`
  Tensor validation_loss(const Batch& batch, const Tensor& positions, const Generator& generator) override;
  /// @return true
  bool has_validation() const override { return true; }
  /// Writes nothing: the model folder is complete.
  void save_extras(const std::filesystem::path& output_dir) const override;
  /// @return the options and the fields of the loss
  std::string config_json() const override;

 private:
  /// The images of a batch from their latents, and what is known of the latents.
  struct Reconstruction {
    Tensor images;
    std::optional<DiagonalGaussianDistribution> posterior = std::nullopt;  // AutoencoderKL
    Tensor latents, codebook_loss, indices;                                // VQModel
  };

  AdversarialLossImpl& common() const;
  Tensor last_layer() const;
  void check_model(int64_t in_channels, int64_t out_channels, std::size_t blocks);
  void add_discriminator();
  Reconstruction reconstruct(const Tensor& images, std::size_t update);
  Reconstruction reconstruct_mode(const Tensor& images) const;
  Tensor decode_quantized(const Tensor& quantized) const;
  StepLoss generator_loss(const Tensor& images);
  StepLoss kl_loss(const Tensor& images, const Reconstruction& made, const GeneratorLossOptions& options);
  StepLoss vq_loss(const Tensor& images, const Reconstruction& made, const GeneratorLossOptions& options);
  void add_codebook_values(const Tensor& indices, std::vector<NamedValue>& values) const;

  AutoencoderKL vae_{nullptr};
  VQModel vq_{nullptr};
  mutable LPIPSWithDiscriminator loss_{nullptr};
  mutable VQLPIPSWithDiscriminator vq_loss_{nullptr};
  AutoencoderTaskOptions options_;
  std::vector<NamedModule> trained_;
  int64_t channels_ = 0;
  int64_t factor_ = 1;  // pixels of the image a side of a latent
  std::optional<int64_t> resolution_;
  int64_t accumulated_batches_ = 1;  // gradient_accumulation_steps
  StepContext context_;
  std::array<StepRows, 2> rows_;  // of each update
  std::array<Tensor, 2> noise_;   // of the whole step
};

}  // namespace diffusers
