#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/dataset.h>
#include <diffusers/data/loader.h>
#include <diffusers/data/tensor_dataset.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;

/// Constant images of two sizes, as samples and as batches.
class ConstantImages : public MapDataset {
 public:
  explicit ConstantImages(int64_t odd_side = 4) : odd_side_(odd_side) {}
  int64_t size() const override { return 6; }
  Batch get(int64_t index) const override {
    const int64_t side = index % 2 == 0 ? 4 : odd_side_;
    Batch sample{.images = at::full({1, side, side}, static_cast<double>(index)),
                 .class_labels = at::scalar_tensor(index, at::kLong),
                 .captions = {"number " + std::to_string(index)},
                 .original_sizes = at::full({2}, side, at::kLong)};
    if (index < 3) return sample;
    sample.images = sample.images.unsqueeze(0);
    sample.class_labels = sample.class_labels.unsqueeze(0);
    sample.original_sizes = sample.original_sizes.unsqueeze(0);
    return sample;
  }
  std::vector<int64_t> buckets() const override {
    if (odd_side_ == 4) return {};
    return {0, 1, 0, 1, 0, 1};
  }

 private:
  int64_t odd_side_;
};

TEST(MapDataset, JoinsSamplesWithAndWithoutABatchDimension) {
  const ConstantImages data;
  const Batch batch = data.get_batch(std::vector<int64_t>{4, 0, 2});
  const Tensor numbers = at::tensor({4, 0, 2}, at::kLong);
  expect_equal(batch.images, numbers.to(at::kFloat).view({3, 1, 1, 1}).expand({3, 1, 4, 4}), "images");
  expect_equal(batch.class_labels, numbers, "labels");
  expect_equal(batch.indices, numbers, "indices");
  expect_equal(batch.original_sizes, at::full({3, 2}, 4, at::kLong), "sizes");
  EXPECT_EQ(batch.captions, (std::vector<std::string>{"number 4", "number 0", "number 2"}));
  expect_throws_with<TensorError>([&] { data.get_batch(std::vector<int64_t>{6}); }, "index 6");
}

TEST(MapDataset, SamplesOfSeveralSizesAreReadByBucket) {
  const ConstantImages data(8);
  expect_throws_with<TensorError>(
      [&] {
        data.get_batch(std::vector<int64_t>{0, 2, 1});
      },
      "images of sample 2 are float32 [1, 1, 8, 8] on cpu, but those of sample 0 are "
      "float32 [1, 1, 4, 4] on cpu");
  DataLoader loader(data, {.batch_size = 2, .shuffle = true, .num_workers = 2});
  int64_t batches = 0;
  for (const Batch& batch : loader) {
    ++batches;
    EXPECT_EQ(batch.images.size(2), batch.original_sizes[0][0].item<int64_t>());
  }
  EXPECT_EQ(batches, 4);
}

TEST(MapDataset, AugmentationDependsOnTheSeed) {
  class Augmented : public ConstantImages {
   public:
    Batch get_augmented(int64_t index, uint64_t seed) const override {
      Batch sample = get(index);
      sample.images = sample.images + static_cast<double>(seed);
      return sample;
    }
  };
  const Augmented data;
  EXPECT_EQ(data.get_batch(std::vector<int64_t>{1}, 100).images.max().item<double>(), 101);
  EXPECT_EQ(data.get_batch(std::vector<int64_t>{1}).images.max().item<double>(), 1);
}

TEST(MapDataset, SamplesOfOtherShapesAreNamed) {
  class Fixed : public MapDataset {
   public:
    explicit Fixed(Batch sample) : sample_(std::move(sample)) {}
    int64_t size() const override { return 8; }
    Batch get(int64_t) const override { return sample_; }

   private:
    Batch sample_;
  };
  const auto read = [](const Batch& sample) {
    return [sample] { Fixed(sample).get_batch(std::vector<int64_t>{5}); };
  };
  expect_throws_with<TensorError>(read({}), "get(5): no field of the sample is set");
  expect_throws_with<TensorError>(
      read({.images = at::zeros({2, 1, 4, 4})}),
      "get(5): images are float32 [2, 1, 4, 4] on cpu, expected one sample: 3 dimensions, "
      "or 4 with a first one of 1");
  expect_throws_with<TensorError>(read({.images = at::zeros({4, 4})}), "get(5): images are float32 [4, 4]");
  expect_throws_with<TensorError>(
      read({.images = at::zeros({1, 4, 4}), .class_labels = at::zeros({2}, at::kLong)}),
      "get(5): class_labels are int64 [2]");
  expect_throws_with<TensorError>(read({.images = at::zeros({1, 4, 4}), .captions = {"a", "b"}}),
                                  "get(5): one sample has 2 captions");
}

TEST(TensorDataset, GivesTheRowsOfEveryField) {
  const Tensor images = at::arange(20, at::kFloat).view({5, 1, 2, 2});
  const TensorDataset plain(images);
  EXPECT_EQ(plain.size(), 5);
  EXPECT_EQ(plain.class_count(), 0);
  const std::vector<int64_t> indices{3, 0, 3};
  const Tensor positions = at::tensor(indices, at::kLong);
  expect_equal(plain.get_batch(indices).images, images.index_select(0, positions), "images");
  EXPECT_FALSE(plain.get_batch(indices).class_labels.defined());

  const TensorDataset labelled(images, at::tensor({0, 4, 2, 4, 1}, at::kByte));
  EXPECT_EQ(labelled.class_count(), 5);
  expect_equal(labelled.get_batch(indices).class_labels, at::tensor({4, 0, 4}, at::kLong), "labels");
  expect_equal(labelled.get_batch(indices).indices, positions, "indices");

  const TensorDataset full({.images = images,
                            .captions = {"a", "b", "c", "d", "e"},
                            .masks = images,
                            .indices = at::tensor({10, 11, 12, 13, 14}, at::kLong)});
  const Batch batch = full.get_batch(indices);
  EXPECT_EQ(batch.captions, (std::vector<std::string>{"d", "a", "d"}));
  expect_equal(batch.masks, images.index_select(0, positions), "masks");
  expect_equal(batch.indices, at::tensor({13, 10, 13}, at::kLong), "indices of its own");
  EXPECT_EQ(full.samples().size(), 5);
  expect_throws_with<TensorError>([&] { full.get_batch(std::vector<int64_t>{5}); }, "index 5");
  DataLoader loader(TensorDataset(images, at::arange(5)), {.batch_size = 5});
  expect_equal(loader.next()->class_labels, at::arange(5), "order");
}

TEST(TensorDataset, TensorsThatDoNotFitAreRefused) {
  const Tensor images = at::zeros({3, 1, 2, 2});
  const auto make = [](Tensor first, Tensor labels = {}) {
    return [first = std::move(first), labels = std::move(labels)] { TensorDataset data(first, labels); };
  };
  expect_throws_with<TensorError>(make({}), "images are an undefined tensor");
  expect_throws_with<TensorError>(make(at::zeros({0, 1, 2, 2})), "expected [N, ...] with N of 1 or more");
  expect_throws_with<TensorError>(make(images.to(at::kByte)),
                                  "convert bytes with images.to(torch::kFloat) / 127.5 - 1");
  expect_throws_with<TensorError>(make(images, at::zeros({2}, at::kLong)),
                                  "there are 2 class_labels, but 3 images");
  expect_throws_with<TensorError>(make(images, at::zeros({3})), "expected whole numbers [3]");
  expect_throws_with<TensorError>(make(images, at::zeros({3, 1}, at::kLong)), "expected whole numbers [3]");
  expect_throws_with<TensorError>(make(images, at::full({3}, -1, at::kLong)), "a class label is -1");
  expect_throws_with<TensorError>([&] { TensorDataset data({.images = images, .captions = {"a"}}); },
                                  "there are 1 captions, but 3 images");
}

}  // namespace
}  // namespace diffusers
