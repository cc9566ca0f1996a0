#include "data/image_buckets.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/loader.h>
#include <diffusers/io/image.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;
using test::TemporaryFolder;
using Sizes = std::vector<std::pair<int64_t, int64_t>>;

Sizes sizes_of(int64_t resolution, int64_t step) {
  Sizes sizes;
  for (const BucketSize& size : make_bucket_sizes(resolution, step))
    sizes.emplace_back(size.height, size.width);
  return sizes;
}

TEST(ImageBuckets, SidesAreMultiplesWithinTheArea) {
  EXPECT_EQ(sizes_of(512, 64), (Sizes{{256, 832},
                                      {256, 896},
                                      {256, 960},
                                      {256, 1024},
                                      {320, 704},
                                      {320, 768},
                                      {384, 640},
                                      {448, 576},
                                      {512, 512},
                                      {576, 448},
                                      {640, 384},
                                      {704, 320},
                                      {768, 320},
                                      {832, 256},
                                      {896, 256},
                                      {960, 256},
                                      {1024, 256}}));
  EXPECT_EQ(sizes_of(64, 64), (Sizes{{64, 64}}));
  for (const auto& [resolution, step] : Sizes{{512, 8}, {1024, 64}, {100, 7}, {1, 1}, {5, 5}})
    for (const auto& [height, width] : sizes_of(resolution, step)) {
      EXPECT_LE(height * width, resolution * resolution);
      EXPECT_TRUE(height % step == 0 && width % step == 0 && height > 0 && width > 0);
      EXPECT_LE(std::max(height, width), 2 * resolution);
    }
}

TEST(ImageBuckets, TheNearestAspectRatioIsChosen) {
  const std::vector<BucketSize> sizes = make_bucket_sizes(512, 64);
  const auto chosen = [&](int64_t height, int64_t width) {
    const BucketSize& size = sizes[static_cast<std::size_t>(nearest_bucket(height, width, sizes))];
    return std::pair(size.height, size.width);
  };
  EXPECT_EQ(chosen(100, 100), std::pair(int64_t{512}, int64_t{512}));
  EXPECT_EQ(chosen(1000, 1600), std::pair(int64_t{384}, int64_t{640}));
  EXPECT_EQ(chosen(1600, 1000), std::pair(int64_t{640}, int64_t{384}));
  EXPECT_EQ(chosen(10, 1000), std::pair(int64_t{256}, int64_t{1024}));
}

/// Pictures of three shapes, with masks.
class MixedFolder {
 public:
  MixedFolder() {
    std::string metadata;
    for (int i = 0; i < 11; ++i) {
      const std::string name = "p" + std::to_string(i);
      const auto [height, width] = Sizes{{40, 40}, {40, 80}, {90, 60}}[static_cast<std::size_t>(i % 3)];
      save_image(at::full({3, height, width}, i / 20.0), folder_ / (name + ".png"));
      save_image(at::full({1, height, width}, 1.0), folder_ / ("m" + name + ".png"));
      metadata += "{\"file_name\": \"" + name + ".png\", \"mask\": \"m" + name + ".png\", \"text\": \"" +
                  name + "\"}\n";
    }
    write_file(metadata, folder_ / "metadata.jsonl");
  }
  const std::string& path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

TEST(ImageBuckets, EachBatchHasOneSize) {
  const MixedFolder folder;
  const ImageFolder data(
      folder.path(), {.resolution = 32, .mask_column = "mask", .enable_bucketing = true, .bucket_step = 8});
  EXPECT_EQ(
      data.bucket_sizes(),
      (Sizes{{16, 48}, {16, 56}, {16, 64}, {24, 40}, {32, 32}, {40, 24}, {48, 16}, {56, 16}, {64, 16}}));
  EXPECT_EQ(data.buckets(), (std::vector<int64_t>{4, 3, 5, 4, 3, 5, 4, 3, 5, 4, 3}));
  DataLoader loader(data, {.batch_size = 3, .shuffle = true});
  EXPECT_EQ(loader.size(), 5);
  std::map<int64_t, int64_t> seen;
  for (int epoch = 0; epoch < 2; ++epoch)
    for (const Batch& batch : loader) {
      const auto first = static_cast<std::size_t>(batch.indices[0].item<int64_t>());
      const auto [height, width] = data.bucket_sizes()[static_cast<std::size_t>(data.buckets()[first])];
      EXPECT_EQ(batch.images.sizes(), (std::vector<int64_t>{batch.size(), 3, height, width}));
      EXPECT_EQ(batch.masks.sizes(), (std::vector<int64_t>{batch.size(), 1, height, width}));
      EXPECT_EQ(batch.masks.min().item<double>(), 1.0);
      const Sizes originals{{40, 40}, {40, 80}, {90, 60}};
      for (int64_t i = 0; i < batch.size(); ++i) {
        const auto index = batch.indices[i].item<int64_t>();
        ++seen[index];
        expect_equal(batch.original_sizes[i],
                     at::tensor({originals[static_cast<std::size_t>(index % 3)].first,
                                 originals[static_cast<std::size_t>(index % 3)].second},
                                at::kLong),
                     "original_sizes");
      }
    }
  EXPECT_EQ(seen.size(), 11U);
  for (const auto& [index, count] : seen) EXPECT_EQ(count, 2) << index;
}

TEST(ImageBuckets, ImagesAreResizedToCoverAndCropped) {
  const TemporaryFolder folder;
  const at::Tensor image = at::arange(3 * 20 * 50).remainder(256).to(at::kByte).view({3, 20, 50});
  save_image(image, folder / "a.png");
  const ImageFolder data(folder.path(),
                         {.resolution = 32, .center_crop = true, .enable_bucketing = true, .bucket_step = 8});
  const Batch batch = data.get_batch(std::vector<int64_t>{0});
  EXPECT_EQ(batch.images.sizes(), (std::vector<int64_t>{1, 3, 16, 48}));
  // Resized to 19 x 48, of which 16 rows stay.
  expect_equal(batch.crop_top_lefts, at::tensor({2, 0}, at::kLong).view({1, 2}), "crop_top_lefts");
  const ImageFolder flipped(folder.path(), {.resolution = 32, .enable_bucketing = true, .bucket_step = 32});
  const Batch square = flipped.get_batch(std::vector<int64_t>{0}, 3);
  EXPECT_EQ(square.images.sizes(), (std::vector<int64_t>{1, 3, 32, 32}));
  const ImageFolder plain(folder.path(), {.resolution = 32});
  expect_equal(square.images, plain.get_batch(std::vector<int64_t>{0}, 3).images,
               "a single bucket is the square");
}

TEST(ImageBuckets, TheOrderIsResumable) {
  const MixedFolder folder;
  const ImageFolder data(folder.path(), {.resolution = 32, .enable_bucketing = true, .bucket_step = 8});
  const DataLoaderOptions options{.batch_size = 2, .shuffle = true, .seed = 4, .num_workers = 2};
  DataLoader whole(data, options);
  std::vector<Batch> batches;
  std::vector<DataLoaderPosition> positions{whole.position()};
  for (const Batch& batch : whole) {
    batches.push_back(batch);
    positions.push_back(whole.position());
  }
  for (std::size_t i = 0; i < batches.size(); ++i) {
    DataLoader resumed(data, options);
    resumed.restore(positions[i]);
    const auto batch = resumed.next();
    expect_equal(batch->indices, batches[i].indices, "indices");
    expect_equal(batch->images, batches[i].images, "images");
  }
}

TEST(ImageBuckets, OptionsAndMixedBatchesAreRefused) {
  const MixedFolder folder;
  const auto make = [&](const ImageFolderOptions& options) {
    return [&folder, options] { const ImageFolder data(folder.path(), options); };
  };
  expect_throws_with<ConfigError>(make({.bucket_step = 32}),
                                  "bucket_step is 32, but has an effect only with");
  expect_throws_with<ConfigError>(make({.resolution = 32, .enable_bucketing = true}),
                                  "bucket_step is 64, expected 1 to 32, the resolution");
  expect_throws_with<ConfigError>(make({.enable_bucketing = true, .bucket_step = 0}), "bucket_step is 0");
  expect_throws_with<ConfigError>(make({.resize_to_square = true, .enable_bucketing = true}),
                                  "enable_bucketing and resize_to_square are both true");
  const ImageFolder data(folder.path(), {.resolution = 32, .enable_bucketing = true, .bucket_step = 8});
  expect_throws_with<TensorError>(
      [&] {
        data.get_batch(std::vector<int64_t>{0, 1});
      },
      "sample 0 has 32 x 32 pixels and sample 1 has 40 x 24; expected samples of one bucket");
  test::write_bytes(join_path(folder.path(), "p3.png"), "not an image");
  expect_throws_with<FileError>(make({.enable_bucketing = true}), "p3.png: expected a PNG or JPEG image");
}

}  // namespace
}  // namespace diffusers
