#include <memory>
#include <set>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/image_folder.h>
#include <diffusers/data/tensor_dataset.h>
#include <diffusers/data/textual_inversion_dataset.h>
#include <diffusers/io/image.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;
using test::TemporaryFolder;

std::shared_ptr<const Dataset> three_images() {
  return std::make_shared<TensorDataset>(at::arange(3, at::kFloat).view({3, 1, 1, 1}).expand({3, 1, 4, 4}),
                                         at::tensor({0, 1, 2}, at::kLong));
}

TEST(TextualInversionDataset, RepeatsImagesWithCaptionsOfTheScript) {
  const TextualInversionDataset data(three_images(), {.placeholder = "<toy> <toy>_1", .repeats = 200});
  EXPECT_EQ(data.size(), 600);
  EXPECT_TRUE(data.buckets().empty());
  const Batch batch = data.get_batch(std::vector<int64_t>{0, 4, 599}, 7);
  expect_equal(batch.images.select(3, 0).select(2, 0).flatten(), at::tensor({0.0F, 1.0F, 2.0F}), "images");
  expect_equal(batch.indices, at::tensor({0, 4, 599}, at::kLong), "indices");
  EXPECT_FALSE(batch.class_labels.defined());
  std::set<std::string> captions;
  for (int64_t i = 0; i < data.size(); ++i) captions.insert(data.caption(i, 7));
  EXPECT_EQ(captions.size(), textual_inversion_templates("object").size());
  EXPECT_TRUE(captions.contains("a rendition of a <toy> <toy>_1"));
  EXPECT_EQ(batch.captions,
            (std::vector<std::string>{data.caption(0, 7), data.caption(4, 7), data.caption(599, 7)}));
  // Another epoch, other captions.
  int64_t equal = 0;
  for (int64_t i = 0; i < 100; ++i) equal += data.caption(i, 7) == data.caption(i, 8) ? 1 : 0;
  EXPECT_LT(equal, 20);
}

TEST(TextualInversionDataset, HasTheTemplatesOfAStyle) {
  EXPECT_EQ(textual_inversion_templates("object").size(), 27U);
  EXPECT_EQ(textual_inversion_templates("style").size(), 19U);
  for (const std::string& text : textual_inversion_templates("style"))
    EXPECT_TRUE(text.ends_with(" in the style of {}")) << text;
  const TextualInversionDataset data(three_images(), {.placeholder = "<toy>", .learnable_property = "style"});
  EXPECT_TRUE(data.caption(0, 1).ends_with("in the style of <toy>"));
}

TEST(TextualInversionDataset, RepetitionsHaveTheirOwnFlips) {
  const TemporaryFolder folder;
  save_image(at::arange(16, at::kFloat).view({1, 4, 4}).expand({3, 4, 4}) / 16, folder / "a.png");
  const auto pictures =
      std::make_shared<ImageFolder>(folder.path(), ImageFolderOptions{.resolution = 4, .random_flip = true});
  const TextualInversionDataset data(pictures, {.placeholder = "<toy>", .repeats = 40});
  std::vector<int64_t> all;
  for (int64_t i = 0; i < data.size(); ++i) all.push_back(i);
  const Tensor corners = data.get_batch(all, 3).images.select(1, 0).select(1, 0).select(1, 0);
  const int64_t flipped = corners.gt(-0.95).sum().item<int64_t>();
  EXPECT_GT(flipped, 8);
  EXPECT_LT(flipped, 32);
  expect_equal(data.get_batch(all, 3).images.select(1, 0).select(1, 0).select(1, 0), corners, "again");
}

TEST(TextualInversionDataset, WhatIsWrongIsNamed) {
  const auto make = [](const TextualInversionDatasetOptions& options) {
    const TextualInversionDataset data(three_images(), options);
  };
  expect_throws_with<ConfigError>([] { const TextualInversionDataset data(nullptr); }, "there are no images");
  expect_throws_with<ConfigError>([&] { make({.placeholder = ""}); }, "placeholder is empty");
  expect_throws_with<ConfigError>([&] { make({.repeats = 0}); }, "repeats is 0");
  expect_throws_with<ConfigError>([&] { make({.learnable_property = "shape"}); },
                                  "learnable_property is \"shape\", expected \"object\" or \"style\"");
  const TextualInversionDataset data(three_images());
  expect_throws_with<TensorError>([&] { data.get(300); }, "index 300 is out of range");
}

}  // namespace
}  // namespace diffusers
