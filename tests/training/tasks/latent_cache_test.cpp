#include <span>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/data/tensor_dataset.h>
#include <diffusers/io/files.h>
#include <diffusers/training/latent_cache.h>
#include <diffusers/training/latent_source.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/log_capture.h"
#include "training/tiny_autoencoder.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::tiny_images;
using test::tiny_vae;
using test::tiny_vqvae;

Batch cached_batch(const Tensor& images, const std::vector<int64_t>& indices) {
  const Tensor index = at::tensor(indices, at::kLong);
  return {.images = images.index_select(0, index), .indices = index};
}

void expect_distributions_of_the_encoder(LatentCacheFormat format) {
  const test::TemporaryFolder folder;
  const Tensor images = tiny_images(10);
  const LatentEncoder encoder(tiny_vae());
  const auto cache =
      LatentCache::build(folder.path(), TensorDataset(images), encoder,
                         {.batch_size = 3, .random_flip = true, .samples_per_file = 4, .format = format});
  EXPECT_EQ(cache->size(), 10);
  EXPECT_EQ(cache->encoded_images(), 20);
  EXPECT_EQ(cache->fingerprint(), encoder.fingerprint());
  EXPECT_EQ(list_folder(folder.path()).size(), 3U);
  const Batch batch = cached_batch(images, {7, 0, 9});
  const auto expect_found = [&](const Batch& wanted) {
    const LatentDistribution found = cache->find(wanted);
    const LatentDistribution expected = encoder.encode_distribution(wanted.images);
    // A convolution may sum in another order for another batch size.
    expect_close(found.mean, expected.mean, 1e-5, 1e-6);
    expect_close(found.logvar, expected.logvar, 1e-5, 1e-6);
  };
  expect_found(batch);
  Batch mirrored = batch;
  mirrored.images = at::cat({batch.images.slice(0, 0, 1).flip({3}), batch.images.slice(0, 1)});
  expect_found(mirrored);
}

TEST(LatentCache, GivesTheDistributionsOfTheEncoder) {
  expect_distributions_of_the_encoder(LatentCacheFormat::kSafetensors);
  expect_distributions_of_the_encoder(LatentCacheFormat::kTar);
}

TEST(LatentCache, OfAVQModelHasNoVariance) {
  const test::TemporaryFolder folder;
  const Tensor images = tiny_images(4);
  const LatentEncoder encoder(tiny_vqvae());
  const auto cache = LatentCache::build(folder.path(), TensorDataset(images), encoder);
  const LatentDistribution found = cache->find(cached_batch(images, {2}));
  EXPECT_FALSE(found.logvar.defined());
  expect_close(found.mean, encoder.encode_distribution(images.slice(0, 2, 3)).mean, 1e-5, 1e-6);
}

void expect_kept_and_encoded(LatentCacheFormat format) {
  const test::TemporaryFolder folder;
  Tensor images = tiny_images(8);
  const LatentEncoder encoder(tiny_vae());
  const LatentCacheOptions options{.batch_size = 2, .samples_per_file = 4, .format = format};
  const std::string file = "latents-00000." + std::string(enum_name(format));
  const auto build = [&](const LatentEncoder& with, const LatentCacheOptions& given) {
    return LatentCache::build(folder.path(), TensorDataset(images), with, given)->encoded_images();
  };
  EXPECT_EQ(build(encoder, options), 8);
  EXPECT_EQ(build(encoder, options), 0);
  // An image: its file alone.
  images[5].add_(0.01);
  EXPECT_EQ(build(encoder, options), 4);
  EXPECT_EQ(build(encoder, options), 0);
  // The weights of the autoencoder.
  AutoencoderKL moved = tiny_vae();
  {
    const at::NoGradGuard no_grad;
    moved->encoder->conv_in->weight.mul_(1.5);
  }
  EXPECT_EQ(build(LatentEncoder(moved), options), 8);
  EXPECT_EQ(build(encoder, options), 8);
  // Mirrored images.
  EXPECT_EQ(build(encoder, {.batch_size = 2, .random_flip = true, .samples_per_file = 4, .format = format}),
            16);
  EXPECT_EQ(build(encoder, options), 8);
  // The size of the dataset.
  images = images.slice(0, 0, 3).clone();
  EXPECT_EQ(build(encoder, options), 3);
  EXPECT_EQ(list_folder(folder.path()), std::vector<std::string>{file});
  // A file that is damaged, and one that a killed process left.
  const std::string whole = read_text_file(folder / file);
  for (const std::string& bytes : {std::string("damaged"), whole.substr(0, whole.size() / 2)}) {
    test::write_bytes(folder / file, bytes);
    test::LogCapture log;
    EXPECT_EQ(build(encoder, options), 3);
    EXPECT_TRUE(log.contains(file));
  }
  EXPECT_EQ(build(encoder, options), 0);
}

TEST(LatentCache, KeepsWhatIsThereAndEncodesWhatHasChanged) {
  expect_kept_and_encoded(LatentCacheFormat::kSafetensors);
  expect_kept_and_encoded(LatentCacheFormat::kTar);
}

/// Images of two sizes, in two buckets.
class TwoSizes : public Dataset {
 public:
  int64_t size() const override { return 7; }
  std::vector<int64_t> buckets() const override { return {0, 1, 1, 0, 1, 0, 0}; }
  Batch get_batch(std::span<const int64_t> indices, uint64_t /*seed*/) const override {
    std::vector<Tensor> images;
    for (const int64_t index : indices) {
      const Tensor image = tiny_images(7, 8)[index];
      images.push_back(buckets()[static_cast<std::size_t>(index)] == 0 ? image : at::cat({image, image}, 2));
    }
    const Tensor positions = at::tensor(std::vector<int64_t>(indices.begin(), indices.end()), at::kLong);
    return {.images = at::stack(images), .indices = positions};
  }
};

TEST(LatentCache, KeepsTheSizesOfBuckets) {
  const TwoSizes data;
  const LatentEncoder encoder(tiny_vae());
  for (const char* format : {"safetensors", "tar"}) {
    const test::TemporaryFolder folder;
    const LatentCacheOptions options{
        .batch_size = 2, .random_flip = true, .samples_per_file = 5, .format = format};
    const auto cache = LatentCache::build(folder.path(), data, encoder, options);
    EXPECT_EQ(LatentCache::build(folder.path(), data, encoder, options)->encoded_images(), 0);
    for (const std::vector<int64_t>& indices : {std::vector<int64_t>{0, 6, 3}, std::vector<int64_t>{4, 1}}) {
      const Batch batch = data.get_batch(indices, 0);
      const LatentDistribution expected = encoder.encode_distribution(batch.images);
      expect_close(cache->find(batch).mean, expected.mean, 1e-5, 1e-6);
      expect_close(cache->find(batch).logvar, expected.logvar, 1e-5, 1e-6);
    }
  }
}

TEST(LatentCache, NamesWhatDoesNotFit) {
  const test::TemporaryFolder folder;
  const Tensor images = tiny_images(4);
  const LatentEncoder encoder(tiny_vae());
  const auto cache = LatentCache::build(folder.path(), TensorDataset(images), encoder);
  Batch batch = cached_batch(images, {1, 3});
  batch.images[1].mul_(0.5);
  expect_throws_with<TensorError>([&] { cache->find(batch); }, "the image of sample 3 is not the one");
  // Mirrored images were not asked for.
  batch.images = batch.images.flip({3});
  expect_throws_with<TensorError>([&] { cache->find(batch); }, "the image of sample 1 is not the one");
  expect_throws_with<TensorError>([&] { cache->find({.images = images}); }, "indices of the batch are");
  batch.indices = at::tensor({0, 4}, at::kLong);
  batch.images = images.slice(0, 0, 2);
  expect_throws_with<TensorError>([&] { cache->find(batch); }, "index 4 of a sample is outside");
  expect_throws_with<TensorError>([&] { cache->find({}); }, "expected [B, C, H, W] in host memory");

  const TensorDataset dataset(images);
  expect_throws_with<ConfigError>(
      [&] { LatentCache::build(folder.path(), dataset, encoder, {.batch_size = 0}); }, "batch_size of the");
  expect_throws_with<ConfigError>(
      [&] { LatentCache::build(folder.path(), dataset, encoder, {.samples_per_file = 0}); },
      "samples_per_file of the");
  expect_throws_with<TensorError>(
      [&] {
        LatentCache::build(folder.path(), TensorDataset(at::zeros({2, 1, 8, 8})), encoder);
      },
      "in_channels is 3");
  AutoencoderKLConfig config = test::tiny_vae_config();
  config.scaling_factor = 1.0;
  expect_throws_with<ConfigError>([&] { LatentSource(LatentEncoder(tiny_vae(config)), cache); },
                                  "made with another autoencoder");
}

}  // namespace
}  // namespace diffusers
