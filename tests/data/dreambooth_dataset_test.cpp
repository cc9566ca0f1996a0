#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/dreambooth_dataset.h>
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

/// A folder with two instance images and three class images, each of one gray level.
class DreamBoothDatasetTest : public testing::Test {
 protected:
  DreamBoothDatasetTest() {
    for (const char* name : {"one", "class", "empty"}) std::filesystem::create_directories(folder_ / name);
    for (int i = 0; i < 2; ++i) save(std::string("one/") + std::to_string(i) + ".png", 10 + i, 8, 12);
    for (int i = 0; i < 3; ++i) save(std::string("class/") + std::to_string(i) + ".png", 100 + i, 9, 8);
  }
  void save(const std::string& name, int level, int64_t height, int64_t width) {
    save_image(at::full({3, height, width}, level, at::kByte), folder_ / name);
  }
  DreamBoothDatasetOptions pairs() const {
    return {.instance_prompt = "sks cat",
            .class_data_dir = folder_ / "class",
            .class_prompt = "cat",
            .resolution = 8};
  }
  /// Gray levels of the rows.
  static std::vector<int64_t> levels(const Batch& batch) {
    std::vector<int64_t> found;
    for (int64_t i = 0; i < batch.size(); ++i)
      found.push_back(((batch.images[i][0][0][0] + 1) * 127.5).round().item().toLong());
    return found;
  }
  TemporaryFolder folder_;
};

TEST_F(DreamBoothDatasetTest, RowsAreTheInstancesThenTheClassImages) {
  const DreamBoothDataset data(folder_ / "one", pairs());
  EXPECT_TRUE(data.has_class_images());
  EXPECT_EQ(data.size(), 3);
  EXPECT_EQ(data.instance_files().size(), 2U);
  EXPECT_EQ(data.class_files().size(), 3U);
  const Batch batch = data.get_batch(std::vector<int64_t>{2, 1});
  EXPECT_EQ(levels(batch), (std::vector<int64_t>{10, 11, 102, 101}));
  EXPECT_EQ(batch.captions, (std::vector<std::string>{"sks cat", "sks cat", "cat", "cat"}));
  expect_equal(batch.is_prior, at::tensor({0, 0, 1, 1}, at::kLong).to(at::kBool), "is_prior");
  expect_equal(batch.indices, at::tensor({2, 1, 5, 4}, at::kLong), "indices");
  expect_equal(batch.original_sizes, at::tensor({8, 12, 8, 12, 9, 8, 9, 8}, at::kLong).view({4, 2}), "sizes");
  EXPECT_FALSE(batch.class_labels.defined());
}

TEST_F(DreamBoothDatasetTest, InstancesAreRepeated) {
  DreamBoothDatasetOptions options{.instance_prompt = "sks cat", .repeats = 3, .resolution = 8};
  const DreamBoothDataset alone(folder_ / "one", options);
  EXPECT_FALSE(alone.has_class_images());
  EXPECT_TRUE(alone.class_files().empty());
  EXPECT_EQ(alone.size(), 6);
  const Batch batch = alone.get_batch(std::vector<int64_t>{0, 3, 4});
  EXPECT_EQ(levels(batch), (std::vector<int64_t>{10, 11, 10}));
  EXPECT_FALSE(batch.is_prior.defined());
  options = pairs();
  options.num_class_images = 1;
  options.repeats = 4;
  const DreamBoothDataset data(folder_ / "one", options);
  EXPECT_EQ(data.size(), 8);
  EXPECT_EQ(levels(data.get_batch(std::vector<int64_t>{7})), (std::vector<int64_t>{11, 100}));
}

TEST_F(DreamBoothDatasetTest, CropsDependOnTheSeedAndThePosition) {
  // 8 x 12 pixels: the crop has five positions.
  const DreamBoothDataset data(folder_ / "one", {.instance_prompt = "cat", .repeats = 20, .resolution = 8});
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < 40; ++i) indices.push_back(i);
  const Tensor crops = data.get_batch(indices, 3).crop_top_lefts;
  expect_equal(data.get_batch(indices, 3).crop_top_lefts, crops, "again");
  EXPECT_FALSE(at::equal(data.get_batch(indices, 4).crop_top_lefts, crops));
  // The rounds of an image differ.
  EXPECT_EQ(crops.select(1, 1).max().item().toLong(), 4);
  EXPECT_EQ(crops.select(1, 1).min().item().toLong(), 0);
  const std::vector<int64_t> one{33};
  expect_equal(data.get_batch(one, 3).crop_top_lefts[0], crops[33], "alone");
}

TEST_F(DreamBoothDatasetTest, TheLoaderGivesPairs) {
  const DreamBoothDataset data(folder_ / "one", pairs());
  DataLoader loader(data, {.batch_size = 2});
  const auto first = loader.next();
  ASSERT_TRUE(first);
  EXPECT_EQ(levels(*first), (std::vector<int64_t>{10, 11, 100, 101}));
  expect_equal(first->indices, at::tensor({0, 1, 3, 4}, at::kLong), "indices");
  const auto last = loader.next();
  ASSERT_TRUE(last);
  EXPECT_EQ(levels(*last), (std::vector<int64_t>{10, 102}));
  EXPECT_FALSE(loader.next());
}

TEST_F(DreamBoothDatasetTest, MistakesAreNamed) {
  const auto make = [&](const char* folder, const DreamBoothDatasetOptions& options) {
    return [this, folder, options] { DreamBoothDataset data(folder_ / folder, options); };
  };
  const DreamBoothDatasetOptions alone{.instance_prompt = "cat", .resolution = 8};
  expect_throws_with<FileError>(make("empty", alone), "no PNG or JPEG files");
  expect_throws_with<FileError>(make("none", alone), "there is no such folder");
  expect_throws_with<ConfigError>(make("one", {}), "instance_prompt is empty");
  DreamBoothDatasetOptions options = pairs();
  options.class_data_dir = folder_ / "empty";
  expect_throws_with<FileError>(make("one", options), "empty: no PNG or JPEG files");
  options = pairs();
  options.class_prompt.clear();
  expect_throws_with<ConfigError>(make("one", options), "but class_prompt is empty");
  options = alone;
  options.class_prompt = "cat";
  expect_throws_with<ConfigError>(make("one", options), "but class_data_dir is empty");
  options = alone;
  options.num_class_images = 3;
  expect_throws_with<ConfigError>(make("one", options), "num_class_images is 3, but class_data_dir is empty");
  options = alone;
  options.repeats = 0;
  expect_throws_with<ConfigError>(make("one", options), "repeats is 0, expected 1 or more");
  options.repeats = 1;
  options.resolution = 0;
  expect_throws_with<ConfigError>(make("one", options), "resolution is 0");
  const DreamBoothDataset data(folder_ / "one", alone);
  expect_throws_with<TensorError>([&] { data.get_batch(std::vector<int64_t>{2}); }, "2");
}

}  // namespace
}  // namespace diffusers
