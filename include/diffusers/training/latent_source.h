#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/data/dataset.h>
#include <diffusers/training/latent_cache.h>
#include <diffusers/training/latent_encoder.h>
#include <diffusers/training/step_rows.h>
#include <diffusers/training/task.h>

namespace diffusers {

/// Gives a task the latents of its batches, from a LatentEncoder or from a LatentCache, with the posterior
/// noise of the step. Call `check_batch` and `begin_step` from the task's functions of that name.
class LatentSource {
 public:
  /// The latents of a batch, scaled.
  struct Latents {
    Tensor images;              ///< `[B, C, h, w]`
    Tensor masked_images = {};  ///< the same of the masked images; undefined unless they were asked for
  };

  /// @param encoder shared with its autoencoder
  /// @param cache of the training's dataset; null encodes each batch
  /// @throws ConfigError if the cache is of another autoencoder
  explicit LatentSource(LatentEncoder encoder, std::shared_ptr<const LatentCache> cache = nullptr);

  /// @return the encoder
  LatentEncoder& encoder() { return encoder_; }
  /// @return the encoder
  const LatentEncoder& encoder() const { return encoder_; }

  /// Checks the images of a batch on the host. With a cache, keeps them until `next` finds their latents.
  /// @param batch as the dataset gave it
  /// @param is_masked also checks the masks, `[B, 1, H, W]` of the size of the images
  /// @throws TensorError as `LatentEncoder::check_images`
  void check_batch(const Batch& batch, bool is_masked = false);
  /// Starts a step.
  /// @param context gives the number of samples and the source of the noise
  void begin_step(const StepContext& context);
  /// Computes the latents of a batch of the step. The posterior noise is drawn for all samples of the step at
  /// once: that of the images, then that of the masked images.
  /// @param batch on the device of the autoencoder
  /// @param is_masked also encodes `images * (mask < 0.5)`, as diffusers' inpainting scripts do
  /// @return in the dtype of the images, without a graph
  /// @throws TensorError as `LatentCache::find`
  Latents next(const Batch& batch, bool is_masked = false);
  /// Computes the latents of a batch that belongs to no step, without the cache.
  /// @param batch on the device of the autoencoder
  /// @param generator source of the posterior noise
  /// @param is_masked as for `next`
  /// @return as `next`
  Latents encode(const Batch& batch, const Generator& generator, bool is_masked = false);

 private:
  using HostBatches = std::vector<Batch>;

  HostBatches::iterator find_on_host(const Batch& batch);
  LatentDistribution distribution_of(const Batch& batch);

  LatentEncoder encoder_;
  std::shared_ptr<const LatentCache> cache_;
  HostBatches on_host_;  // with a cache, images and indices of the batches of the step
  bool step_has_begun_ = false;
  StepContext context_;
  StepRows rows_;
  Tensor noise_, masked_noise_;  // of all samples of the step
};

}  // namespace diffusers
