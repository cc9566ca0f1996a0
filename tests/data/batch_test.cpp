#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/batch.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "data/batch_fields.h"
#include "data/read_batch.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;

/// A batch with every field, whose values differ from row to row and from field to field.
Batch full_batch(int64_t size, int64_t start = 0) {
  Batch batch;
  int64_t number = 1;
  for_each_field([&](const BatchField& about, auto member) {
    ++number;
    if constexpr (std::is_same_v<decltype(member), Tensor Batch::*>) {
      std::vector<int64_t> shape{size};
      for (int64_t i = 0; i < about.sample_dim; ++i) shape.push_back(2);
      const int64_t sample = int64_t{1} << about.sample_dim;
      const Tensor values =
          at::arange(start * sample, (start + size) * sample, at::kLong).view(shape) + 1000 * number;
      const bool is_image = about.use == FieldUse::kImage;
      batch.*member = is_image                       ? values.to(at::kFloat)
                      : about.use == FieldUse::kHost ? values
                                                     : values.remainder(3);
    } else {
      for (int64_t i = 0; i < size; ++i) (batch.*member).push_back("text " + std::to_string(start + i));
    }
  });
  batch.is_prior = batch.is_prior.to(at::kBool);
  return batch;
}

void expect_same_batch(const Batch& actual, const Batch& expected) {
  for_each_field([&](const BatchField& about, auto member) {
    if constexpr (std::is_same_v<decltype(member), Tensor Batch::*>) {
      expect_equal(actual.*member, expected.*member, about.name);
    } else {
      EXPECT_EQ(actual.*member, expected.*member) << about.name;
    }
  });
}

TEST(Batch, TheListHoldsEveryField) {
  const Batch batch;
  // This does not compile if a field has no name here.
  const auto& [images, class_labels, captions, conditioning_images, original_images, masks, original_sizes,
               crop_top_lefts, indices, is_prior] = batch;
  const std::vector<const void*> fields{
      &images,          &class_labels, &captions,       &conditioning_images,
      &original_images, &masks,        &original_sizes, &crop_top_lefts,
      &indices,         &is_prior};
  std::vector<const void*> listed;
  std::set<std::string> names;
  for_each_field([&](const BatchField& about, auto member) {
    listed.push_back(&(batch.*member));
    names.insert(about.name);
  });
  EXPECT_EQ(listed, fields);
  EXPECT_EQ(names.size(), fields.size());
}

TEST(Batch, SizeIsTheRowsOfTheFirstField) {
  EXPECT_EQ(Batch().size(), 0);
  EXPECT_EQ(full_batch(3).size(), 3);
  // Each field is tested alone.
  for_each_field([&](const BatchField& about, auto member) {
    Batch batch;
    batch.*member = full_batch(3).*member;
    EXPECT_EQ(batch.size(), 3) << about.name;
  });
}

TEST(Batch, SliceGivesViewsOfEveryField) {
  const Batch whole = full_batch(5);
  const Batch part = whole.slice(1, 4);
  expect_same_batch(part, full_batch(3, 1));
  for_each_tensor(part, [&](const BatchField& about, const Tensor& field) {
    bool is_view = false;
    for_each_tensor(whole, [&](const BatchField&, const Tensor& of) { is_view |= of.is_alias_of(field); });
    EXPECT_TRUE(is_view) << about.name;
  });
  EXPECT_EQ(whole.slice(2, 2).size(), 0);
  expect_same_batch(whole.slice(0, 5), whole);
  // Fields that are not set stay undefined.
  const Batch images = Batch{.images = at::zeros({4, 1, 2, 2})}.slice(1, 3);
  EXPECT_EQ(images.size(), 2);
  EXPECT_FALSE(images.class_labels.defined());
  EXPECT_TRUE(images.captions.empty());

  expect_throws_with<TensorError>([&] { whole.slice(-1, 2); }, "samples [-1, 2) of a batch of 5");
  expect_throws_with<TensorError>([&] { whole.slice(3, 2); }, "samples [3, 2) of a batch of 5");
  expect_throws_with<TensorError>([&] { whole.slice(0, 6); }, "samples [0, 6) of a batch of 5");
  Batch uneven = whole;
  uneven.captions.pop_back();
  expect_throws_with<TensorError>([&] { uneven.slice(0, 1); }, "captions are 4 texts, expected 5 rows");
}

TEST(Batch, CollateJoinsEveryField) {
  const std::vector<Batch> parts{full_batch(2), full_batch(1, 2), full_batch(3, 3)};
  expect_same_batch(collate(parts), full_batch(6));
  expect_same_batch(collate(std::span(parts).first(1)), full_batch(2));
  const std::vector<Batch> images(2, Batch{.images = at::ones({1, 1, 2, 2})});
  EXPECT_EQ(collate(images).size(), 2);
  EXPECT_FALSE(collate(images).masks.defined());
}

TEST(Batch, CollateNamesTheFieldAndTheSample) {
  expect_throws_with<TensorError>([] { collate({}); }, "there is no batch");
  for_each_field([](const BatchField& about, auto member) {
    std::vector<Batch> parts{full_batch(2), full_batch(1), full_batch(1)};
    parts[2].*member = std::remove_cvref_t<decltype(parts[2].*member)>();
    // The images determine the number of rows of a batch.
    expect_throws_with<TensorError>([&] { collate(parts); },
                                    std::string("collate: ") + about.name + " of sample 3 are");
  });
  std::vector<Batch> shapes{{.images = at::zeros({1, 3, 8, 8})}, {.images = at::zeros({1, 3, 8, 9})}};
  expect_throws_with<TensorError>(
      [&] { collate(shapes); },
      "images of sample 1 are float32 [1, 3, 8, 9] on cpu, but those of sample 0 are "
      "float32 [1, 3, 8, 8] on cpu");
  shapes[1].images = at::zeros({1, 3, 8, 8}, at::kDouble);
  expect_throws_with<TensorError>([&] { collate(shapes); }, "float64 [1, 3, 8, 8]");
  std::vector<Batch> labels{{.images = at::zeros({1, 1}), .class_labels = at::zeros({1}, at::kLong)},
                            {.images = at::zeros({1, 1}), .class_labels = at::zeros({2}, at::kLong)}};
  expect_throws_with<TensorError>([&] { collate(labels); },
                                  "class_labels of sample 1 are int64 [2] on cpu, expected 1");
}

TEST(Batch, ToConvertsTheImagesAlone) {
  const Batch batch = full_batch(2);
  const Batch moved = batch.to(at::kCPU, at::kDouble);
  for_each_tensor(moved, [](const BatchField& about, const Tensor& field) {
    EXPECT_EQ(field.scalar_type() == at::kDouble, about.use == FieldUse::kImage) << about.name;
  });
  EXPECT_EQ(moved.captions, batch.captions);
  expect_same_batch(moved.to(at::kCPU, at::kFloat), batch);
  // Without a dtype, and on the same device, all tensors are shared.
  const Batch same = batch.to(at::kCPU);
  expect_same_batch(same, batch);
  EXPECT_TRUE(same.images.is_same(batch.images));
  const Batch bytes{.images = at::zeros({1, 1, 2, 2}, at::kByte)};
  EXPECT_EQ(bytes.to(at::kCPU, at::kFloat).images.scalar_type(), at::kByte);
}

TEST(Batch, ToMovesAllThatAModelReads) {
  const Batch moved = full_batch(2).to(at::kMeta, at::kFloat);
  for_each_tensor(moved, [](const BatchField& about, const Tensor& field) {
    EXPECT_EQ(field.is_meta(), about.use != FieldUse::kHost) << about.name;
  });
  EXPECT_EQ(moved.captions.size(), 2U);
}

TEST(Batch, PinMemoryPinsAllThatAModelReads) {
  const Batch batch = full_batch(2);
  if (!at::hasCUDA()) {
    expect_throws_with<Error>([&] { batch.pin_memory(); }, "there is no CUDA device");
    GTEST_SKIP() << "no CUDA device";
  }
  const Batch pinned = batch.pin_memory();
  expect_same_batch(pinned, batch);
  for_each_tensor(pinned, [](const BatchField& about, const Tensor& field) {
    EXPECT_EQ(field.is_pinned(), about.use != FieldUse::kHost) << about.name;
  });
  expect_same_batch(batch.to(at::kCUDA).pin_memory().to(at::kCPU), batch);
}

/// Returns a batch that the test sets.
class BatchDataset : public Dataset {
 public:
  int64_t size() const override { return 8; }
  Batch get_batch(std::span<const int64_t>, uint64_t) const override { return batch; }
  Batch batch;
};

TEST(ReadBatch, ChecksTheRowsOfEveryField) {
  BatchDataset data;
  const std::vector<int64_t> indices{4, 1, 7};
  data.batch = full_batch(3);
  Batch expected = full_batch(3);
  expected.indices = at::tensor(indices, at::kLong);
  expect_same_batch(read_batch(data, indices), expected);
  for_each_field([&](const BatchField& about, auto member) {
    data.batch = full_batch(3);
    data.batch.*member = full_batch(2).*member;
    expect_throws_with<TensorError>([&] { read_batch(data, indices); }, "asked for 3 samples and gave");
    expect_throws_with<TensorError>([&] { read_batch(data, indices); }, about.name);
    data.batch.*member = std::remove_cvref_t<decltype(data.batch.*member)>();
    EXPECT_NO_THROW(read_batch(data, indices)) << about.name;
  });
}

}  // namespace
}  // namespace diffusers
