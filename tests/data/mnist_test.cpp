#include <numeric>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/idx.h>
#include <diffusers/data/mnist.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "data/transforms.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::TemporaryFolder;
using test::write_bytes;

const std::string kFolder = std::string(DIFFUSERS_TEST_GOLDEN) + "/../../examples/data/mnist";

std::string mnist_bytes(int type, const std::vector<int>& shape, const std::string& data) {
  std::string out{'\0', '\0', static_cast<char>(type), static_cast<char>(shape.size())};
  for (const int size : shape)
    out += std::string{'\0', '\0', static_cast<char>(size >> 8), static_cast<char>(size)};
  return out + data;
}

void write_split(const TemporaryFolder& folder, const std::string& images, const std::string& labels) {
  write_bytes(folder / "train-images-idx3-ubyte", images);
  write_bytes(folder / "train-labels-idx1-ubyte", labels);
}

std::vector<int64_t> first(int64_t count) {
  std::vector<int64_t> indices(static_cast<std::size_t>(count));
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

TEST(MnistDataset, ReadsTheFilesOfTheRepository) {
  const MnistDataset train(kFolder, {.split = Split::kTrain});
  EXPECT_EQ(train.size(), 60000);
  EXPECT_EQ(train.resolution(), 28);
  EXPECT_NEAR(train.images().to(at::kDouble).mean().item<double>() / 255, 0.1307, 1e-4);
  const MnistDataset test(kFolder, {.split = Split::kTest});
  EXPECT_EQ(test.size(), 10000);
  for (const auto* data : {&train, &test}) {
    const std::string name = data == &train ? "train" : "t10k";
    const std::string prefix = kFolder + "/" + name;
    const Tensor pixels = read_idx(prefix + "-images-idx3-ubyte.gz").unsqueeze(1);
    EXPECT_TRUE(at::equal(data->images(), pixels)) << name;
    const Tensor labels = read_idx(prefix + "-labels-idx1-ubyte.gz").to(at::kLong);
    EXPECT_TRUE(at::equal(data->labels(), labels)) << name;
  }
  const Batch batch = test.get_batch(first(5));
  EXPECT_EQ(describe(batch.images), "float32 [5, 1, 28, 28] on cpu");
  EXPECT_EQ(batch.images.min().item<float>(), -1.0F);
  EXPECT_EQ(batch.images.max().item<float>(), 1.0F);
  expect_close(batch.images, test.images().slice(0, 0, 5).to(at::kDouble) / 127.5 - 1, 0, 1e-6, "pixels");
  expect_equal(batch.class_labels, at::tensor({7, 2, 1, 0, 4}, at::kLong), "labels");
}

TEST(MnistDataset, TakesTheSplitAsAString) {
  EXPECT_EQ(MnistDataset(kFolder, {.split = "test"}).size(), 10000);
  expect_throws_with<ConfigError>([] { MnistDataset(kFolder, {.split = "validation"}); },
                                  R"(split is "validation", expected one of: "train" "test")");
}

TEST(MnistDataset, IndicesKeepTheirOrder) {
  const MnistDataset data(kFolder, {.split = Split::kTest, .max_samples = 10});
  EXPECT_EQ(data.size(), 10);
  const std::vector<int64_t> indices{3, 0, 3};
  const Batch batch = data.get_batch(indices);
  expect_equal(batch.class_labels, at::tensor({0, 7, 0}, at::kLong), "labels");
  expect_equal(batch.images[0], batch.images[2], "same image");
  expect_throws_with<TensorError>([&] { data.get_batch(std::vector<int64_t>{10}); },
                                  "index 10 into a dataset of 10");
  expect_throws_with<TensorError>([&] { data.get_batch(std::vector<int64_t>{-1}); }, "index -1");
}

TEST(MnistDataset, ResolutionResizesOrPads) {
  const MnistDataset native(kFolder, {.split = Split::kTest, .max_samples = 4});
  const MnistDataset padded(
      kFolder, {.split = Split::kTest, .resolution = 33, .pad_to_resolution = true, .max_samples = 4});
  EXPECT_EQ(padded.resolution(), 33);
  expect_equal(padded.images().slice(2, 2, 30).slice(3, 2, 30), native.images(), "inner part");
  EXPECT_EQ(padded.images().sum().item<int64_t>(), native.images().sum().item<int64_t>());
  for (const int64_t resolution : {14, 32, 64}) {
    const MnistDataset resized(kFolder, {.split = Split::kTest, .resolution = resolution, .max_samples = 4});
    EXPECT_EQ(
        describe(resized.get_batch(first(4)).images),
        "float32 [4, 1, " + std::to_string(resolution) + ", " + std::to_string(resolution) + "] on cpu");
    expect_close(resized.images().to(at::kDouble).mean(), native.images().to(at::kDouble).mean(), 0.05, 0,
                 "mean");
    // Compared with Pillow's resizing in image_folder_test.cpp.
    expect_equal(resized.images(), resize_to_cover(native.images(), resolution, resolution), "pixels");
  }
}

TEST(MnistDataset, FlipDependsOnSeedAndIndexAlone) {
  const MnistDataset plain(kFolder, {.split = Split::kTest, .max_samples = 64});
  const MnistDataset data(kFolder, {.split = Split::kTest, .random_flip = true, .max_samples = 64});
  const Batch batch = data.get_batch(first(64), 5);
  int flipped = 0;
  for (int64_t i = 0; i < 64; ++i) {
    const at::Tensor original = plain.get_batch(std::vector<int64_t>{i}).images[0];
    const bool is_flipped =
        at::equal(batch.images[i], original.flip({2})) && !at::equal(batch.images[i], original);
    EXPECT_TRUE(is_flipped || at::equal(batch.images[i], original));
    flipped += is_flipped ? 1 : 0;
    expect_equal(data.get_batch(std::vector<int64_t>{i}, 5).images[0], batch.images[i], "alone");
  }
  EXPECT_GT(flipped, 16);
  EXPECT_LT(flipped, 48);
  EXPECT_FALSE(at::equal(data.get_batch(first(64), 6).images, batch.images));
}

TEST(MnistDataset, TellsTheNumberOfClasses) {
  const TemporaryFolder folder;
  const auto num_classes = [&](const std::string& labels) {
    const auto count = static_cast<int>(labels.size());
    write_split(folder, mnist_bytes(8, {count, 2, 2}, std::string(4 * labels.size(), 'x')),
                mnist_bytes(8, {count}, labels));
    const MnistDataset data(folder.path(), {.max_samples = 1});
    EXPECT_EQ(data.labels()[0].item<int64_t>(), static_cast<unsigned char>(labels[0]));
    return data.num_classes();
  };
  EXPECT_EQ(num_classes({3, 1}), 10);
  EXPECT_EQ(num_classes({1, 46}), 47);  // EMNIST, balanced
  EXPECT_EQ(num_classes({61, 0}), 62);  // EMNIST, by class
  EXPECT_EQ(num_classes({'\xff', 0}), 256);
}

TEST(MnistDataset, SaysWhatIsWrongWithWhichFile) {
  const TemporaryFolder folder;
  const auto load = [&] { MnistDataset data(folder.path()); };
  expect_throws_with<FileError>([&] { MnistDataset data(folder / "none"); }, "there is no such folder");
  expect_throws_with<FileError>(load, "neither train-images-idx3-ubyte nor train-images-idx3-ubyte.gz");
  const std::string images = mnist_bytes(8, {2, 3, 3}, std::string(18, 'x'));
  const std::string labels = mnist_bytes(8, {2}, std::string("\1\2"));
  write_split(folder, images, labels);
  EXPECT_NO_THROW(load());
  struct Case {
    std::string images, labels, message;
  };
  const std::vector<Case> cases{
      {labels, labels, "train-images-idx3-ubyte: expected images uint8 [N, rows, columns], found uint8 [2]"},
      {images, images, "train-labels-idx1-ubyte: expected labels uint8 [N], found uint8 [2, 3, 3]"},
      {mnist_bytes(9, {2, 3, 3}, std::string(18, 'x')), labels, "found int8 [2, 3, 3]"},
      {mnist_bytes(8, {0, 3, 3}, ""), mnist_bytes(8, {0}, ""), "no images"},
      {mnist_bytes(8, {2, 3, 2}, std::string(12, 'x')), labels, "expected square images"},
      {images, mnist_bytes(8, {3}, "\1\2\3"), "holds 2 images, but"},
      {images.substr(0, 20), labels, "train-images-idx3-ubyte: 2 x 3 x 3 elements"},
  };
  for (const auto& wrong : cases) {
    write_split(folder, wrong.images, wrong.labels);
    expect_throws_with<FileError>(load, wrong.message);
  }
  write_split(folder, images, labels);
  expect_throws_with<ConfigError>([&] { MnistDataset data(folder.path(), {.resolution = -1}); },
                                  "resolution is -1");
  expect_throws_with<ConfigError>(
      [&] { MnistDataset data(folder.path(), {.resolution = 2, .pad_to_resolution = true}); },
      "padding cannot shrink");
  expect_throws_with<ConfigError>([&] { MnistDataset data(folder.path(), {.max_samples = -1}); },
                                  "max_samples is -1");
}

}  // namespace
}  // namespace diffusers
