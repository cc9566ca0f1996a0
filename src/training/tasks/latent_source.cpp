#include <algorithm>
#include <utility>

#include <diffusers/training/latent_source.h>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
namespace {

Tensor masked_images_of(const Batch& batch) { return batch.images * (batch.masks < 0.5); }

}  // namespace

LatentSource::LatentSource(LatentEncoder encoder, std::shared_ptr<const LatentCache> cache)
    : encoder_(std::move(encoder)), cache_(std::move(cache)) {
  require<ConfigError>(cache_ == nullptr || cache_->fingerprint() == encoder_.fingerprint(),
                       "the latent cache was made with another autoencoder than the task's; build it with "
                       "LatentCache::build and the encoder of the task");
}

void LatentSource::check_batch(const Batch& batch, bool is_masked) {
  encoder_.check_images(batch.images, "the images of the dataset");
  if (is_masked)
    require<TensorError>(
        batch.masks.defined() && batch.masks.dim() == 4 && batch.masks.size(1) == 1 &&
            batch.masks.size(0) == batch.images.size(0) && batch.masks.size(2) == batch.images.size(2) &&
            batch.masks.size(3) == batch.images.size(3),
        "the masks of the dataset are {}, but the images are {}; expected one mask [1, H, W] "
        "of the size of each image",
        describe(batch.masks), describe(batch.images));
  if (cache_ == nullptr) return;
  if (std::exchange(step_has_begun_, false)) on_host_.clear();
  on_host_.push_back({.images = batch.images, .indices = batch.indices});
}

void LatentSource::begin_step(const StepContext& context) {
  step_has_begun_ = true;
  context_ = context;
  rows_.begin_step(context);
}

/// A batch on the device shares the indices of the batch on the host.
LatentSource::HostBatches::iterator LatentSource::find_on_host(const Batch& batch) {
  return std::ranges::find_if(on_host_, [&](const Batch& entry) {
    return batch.indices.defined() && entry.indices.is_same(batch.indices);
  });
}

LatentDistribution LatentSource::distribution_of(const Batch& batch) {
  if (cache_ == nullptr) return encoder_.encode_distribution(batch.images);
  const auto found = find_on_host(batch);
  const LatentDistribution distribution = cache_->find(found == on_host_.end() ? batch : *found);
  const at::TensorOptions options = batch.images.options();
  const auto to_device = [&](const Tensor& tensor) {
    return tensor.defined() ? tensor.to(options, /*non_blocking=*/true) : tensor;
  };
  return {to_device(distribution.mean), to_device(distribution.logvar)};
}

LatentSource::Latents LatentSource::next(const Batch& batch, bool is_masked) {
  const LatentDistribution distribution = distribution_of(batch);
  const Tensor& mean = distribution.mean;
  Tensor noise;
  Tensor masked_noise;
  if (encoder_.has_posterior()) {
    rows_.next(mean, [&](at::IntArrayRef shape) {
      noise_ = at::randn(shape, context_.generator, mean.options());
      if (is_masked) masked_noise_ = at::randn(shape, context_.generator, mean.options());
    });
    noise = rows_.of(noise_);
    if (is_masked) masked_noise = rows_.of(masked_noise_);
  }
  if (encoder_.needs_scale()) encoder_.measure_scale(distribution, noise);
  Latents latents{encoder_.sample(distribution, noise)};
  if (is_masked)
    latents.masked_images =
        encoder_.sample(encoder_.encode_distribution(masked_images_of(batch)), masked_noise);
  return latents;
}

LatentSource::Latents LatentSource::encode(const Batch& batch, const Generator& generator, bool is_masked) {
  // It is not of the cached dataset.
  if (const auto found = find_on_host(batch); found != on_host_.end()) on_host_.erase(found);
  Latents latents{encoder_.encode(batch.images, generator)};
  if (is_masked) latents.masked_images = encoder_.encode(masked_images_of(batch), generator);
  return latents;
}

}  // namespace diffusers
