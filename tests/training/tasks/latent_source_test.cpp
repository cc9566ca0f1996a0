#include <vector>

#include <diffusers/data/tensor_dataset.h>
#include <diffusers/training/latent_source.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/tiny_autoencoder.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::tiny_images;
using test::tiny_vae;

Batch masked_batch() {
  Batch batch{.images = tiny_images(4)};
  batch.masks = (at::rand({4, 1, 8, 8}, make_generator(3)) < 0.5).to(at::kFloat);
  return batch;
}

TEST(LatentSource, DrawsTheNoiseOfAWholeStepAtOnce) {
  const Batch batch = masked_batch();
  LatentSource source{LatentEncoder(tiny_vae())};
  source.begin_step({.step = 0, .samples = 4, .generator = make_generator(1)});
  const auto whole = source.next(batch, /*is_masked=*/true);
  source.begin_step({.step = 0, .samples = 4, .generator = make_generator(1)});
  const auto first = source.next(batch.slice(0, 1), true);
  const auto rest = source.next(batch.slice(1, 4), true);
  // A convolution may sum in another order for another batch size.
  expect_close(at::cat({first.images, rest.images}), whole.images, 1e-5, 1e-6);
  expect_close(at::cat({first.masked_images, rest.masked_images}), whole.masked_images, 1e-5, 1e-6);

  // By hand: the noise of the images, then that of the masked images.
  Generator generator = make_generator(1);
  const LatentEncoder& encoder = source.encoder();
  const LatentDistribution posterior = encoder.encode_distribution(batch.images);
  expect_equal(whole.images, encoder.sample(posterior, at::randn(posterior.mean.sizes(), generator)));
  const LatentDistribution masked = encoder.encode_distribution(batch.images * (batch.masks < 0.5));
  expect_equal(whole.masked_images, encoder.sample(masked, at::randn(masked.mean.sizes(), generator)));
  const auto apart = source.encode(batch, make_generator(1), true);
  expect_equal(apart.images, whole.images);
  expect_equal(apart.masked_images, whole.masked_images);
}

TEST(LatentSource, TakesTheLatentsOfTheCache) {
  const test::TemporaryFolder folder;
  const TensorDataset dataset(tiny_images(4));
  const LatentEncoder encoder(tiny_vae());
  LatentSource source(encoder, LatentCache::build(folder.path(), dataset, encoder));
  const std::vector<int64_t> indices{3, 1};
  const Batch batch = dataset.get_batch(indices);
  source.check_batch(batch);
  source.begin_step({.step = 0, .samples = 2, .generator = make_generator(1)});
  // What the task receives on a device: other images, the same indices.
  Batch on_device = batch;
  on_device.images = at::zeros_like(batch.images).to(at::kDouble);
  const Tensor latents = source.next(on_device).images;
  EXPECT_EQ(latents.scalar_type(), at::kDouble);
  const LatentDistribution posterior = encoder.encode_distribution(batch.images);
  const Tensor noise = at::randn(posterior.mean.sizes(), make_generator(1), at::kDouble);
  expect_close(latents, (posterior.mean + at::exp(0.5 * posterior.logvar) * noise) * 0.18215, 1e-5, 1e-6);

  // Held-out data has indices of its own.
  const Batch held_out{.images = tiny_images(2) * 0.5, .indices = at::tensor({0, 1}, at::kLong)};
  source.check_batch(held_out);
  expect_equal(source.encode(held_out, make_generator(2)).images,
               encoder.encode(held_out.images, make_generator(2)));
}

TEST(LatentSource, ChecksImagesAndMasks) {
  LatentSource source{LatentEncoder(tiny_vae())};
  Batch batch = masked_batch();
  source.check_batch(batch, true);
  batch.masks = at::zeros({4, 1, 8, 9});
  expect_throws_with<TensorError>([&] { source.check_batch(batch, true); }, "the masks of the dataset are");
  source.check_batch(batch, false);
  batch.images = at::zeros({4, 1, 8, 8});
  expect_throws_with<TensorError>([&] { source.check_batch(batch, false); }, "the images of the dataset are");
}

}  // namespace
}  // namespace diffusers
