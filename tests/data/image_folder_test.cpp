#include <algorithm>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/image_folder.h>
#include <diffusers/io/image.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "data/resample.h"
#include "data/transforms.h"
#include "support/golden.h"
#include "support/log_capture.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::TemporaryFolder;

TEST(ImageFolder, ResizeAndCenterCropMatchTorchvision) {
  const auto golden = test::load_golden("io.safetensors");
  for (int i = 0; i < 5; ++i) {
    const std::string prefix = "transform/" + std::to_string(i) + "/";
    const Tensor& expected = golden[prefix + "result"];
    const TemporaryFolder folder;
    save_image(golden[prefix + "image"], folder / "x.png");
    const ImageFolder data(folder.path(), {.resolution = expected.size(1), .center_crop = true});
    expect_equal(data.get_batch(std::vector<int64_t>{0}).images[0], expected, prefix);
    const Tensor resized =
        resize_to_cover(golden[prefix + "image"].unsqueeze(0), expected.size(1), expected.size(1))[0];
    expect_equal(resized, golden[prefix + "resized"], prefix + "resized");
    expect_close(resized, golden[prefix + "pillow"], 0, 1, prefix + "pillow");
  }
}

TEST(ImageFolder, SubFoldersAreClasses) {
  const TemporaryFolder folder;
  for (const std::string name : {"dog", "cat/deep", "empty", ".hidden"}) create_folders(folder / name);
  save_image(at::full({3, 8, 8}, 1.0), folder / "dog/b.PNG.png");
  save_image(at::full({3, 8, 8}, 0.0), folder / "dog/a.png");
  save_image(at::full({1, 8, 8}, 0.2), folder / "cat/deep/c.png");
  save_image(at::full({1, 8, 8}, 0.2), folder / ".hidden/c.png");
  write_file("x", folder / "dog/notes.txt");
  const ImageFolder data(folder.path(), {.resolution = 8});
  EXPECT_EQ(data.size(), 3);
  EXPECT_EQ(data.classes(), (std::vector<std::string>{"cat", "dog"}));
  EXPECT_EQ(data.class_count(), 2);
  const Batch batch = data.get_batch(std::vector<int64_t>{2, 0, 1});
  expect_equal(batch.class_labels, at::tensor({1, 0, 1}, at::kLong), "labels");
  const Tensor levels = at::tensor({1.0, -0.6, -1.0}).view({3, 1, 1, 1});
  expect_close(batch.images, levels.expand({3, 3, 8, 8}), 0, 1e-6, "pixels");
  EXPECT_EQ(describe(batch.images), "float32 [3, 3, 8, 8] on cpu");
}

TEST(ImageFolder, WithoutSubFoldersThereAreNoLabels) {
  const ImageFolder data(test::golden_path("io/images"), {.resolution = 10, .channels = 1});
  const auto count = static_cast<int64_t>(list_folder(test::golden_path("io/images")).size());
  EXPECT_EQ(data.size(), count);
  std::vector<int64_t> all;
  for (int64_t i = 0; i < data.size(); ++i) all.push_back(i);
  const Batch batch = data.get_batch(all);
  EXPECT_EQ(describe(batch.images), "float32 [" + std::to_string(count) + ", 1, 10, 10] on cpu");
  EXPECT_FALSE(batch.class_labels.defined());
  EXPECT_TRUE(data.classes().empty());
  EXPECT_EQ(data.class_count(), 0);
  EXPECT_EQ(ImageFolder(test::golden_path("io/images"), {.max_samples = 3}).size(), 3);
}

TEST(ImageFolder, TurnedPhotographsAreUpright) {
  const auto golden = test::load_golden("io.safetensors");
  for (const std::string name : {"turned_6.jpg", "turned_6.png", "turned_late.png"}) {
    const TemporaryFolder folder;
    write_file(read_text_file(test::golden_path("io/images/" + name)), folder / name);
    const Tensor& expected = golden["upright/" + name];
    const ImageFolder data(folder.path(), {.resolution = expected.size(2), .center_crop = true});
    const int64_t top = (expected.size(1) - expected.size(2)) / 2;
    expect_close((data.get_batch(std::vector<int64_t>{0}).images[0] + 1) * 127.5,
                 expected.narrow(1, top, expected.size(2)), 0, 1.01, name);
  }
}

TEST(ImageFolder, ImagesOfOtherFormatsAreListedOnce) {
  const TemporaryFolder folder;
  const test::LogCapture log;
  for (const std::string name : {"cat", "dog/deep"}) create_folders(folder / name);
  save_image(at::zeros({1, 4, 4}), folder / "cat/a.png");
  write_file("x", folder / "cat/notes.txt");
  EXPECT_TRUE(ImageFolder(folder.path()).skipped_files().empty());
  EXPECT_TRUE(log.messages().empty());

  write_file("x", folder / "b.WEBP");
  write_file("x", folder / ".hidden.gif");
  for (const std::string name : {"c.bmp", "d.gif", "deep/e.tif", "deep/f.tiff"})
    write_file("x", folder / ("dog/" + name));
  for (int i = 0; i < 5; ++i) write_file("x", folder / ("dog/g" + std::to_string(i) + ".gif"));
  for (int i = 0; i < 2; ++i) {
    const ImageFolder data(folder.path());
    EXPECT_EQ(data.size(), 1);
    EXPECT_EQ(data.classes(), std::vector<std::string>{"cat"});
    EXPECT_EQ(data.skipped_files().size(), 10U);
  }
  ASSERT_EQ(log.messages().size(), 1U);
  const std::string& message = log.messages().front();
  for (const std::string& part :
       {folder.path(), std::string("10 files in other image formats"), std::string("b.WEBP"),
        std::string("dog/deep/e.tif"), std::string("and 2 more")})
    EXPECT_NE(message.find(part), std::string::npos) << part << " is not in " << message;

  remove_file(folder / "cat/a.png");
  expect_throws_with<FileError>([&] { ImageFolder none(folder.path()); },
                                "no PNG or JPEG files there; 10 files in other image formats");
}

TEST(ImageFolder, RandomCropAndFlipDependOnSeedAndIndexAlone) {
  const TemporaryFolder folder;
  const Tensor ramp = at::arange(32, at::kByte).reshape({1, 1, 32}).expand({3, 8, 32});
  for (int i = 0; i < 40; ++i) save_image(ramp, folder / ("x" + std::to_string(100 + i) + ".png"));
  const ImageFolder data(folder.path(), {.resolution = 8, .random_flip = true, .channels = 1});
  std::vector<int64_t> all;
  for (int64_t i = 0; i < data.size(); ++i) all.push_back(i);
  const Tensor images = ((data.get_batch(all, 3).images + 1) * 127.5).round();
  std::vector<bool> starts(25, false);
  int flipped = 0;
  for (const int64_t i : all) {
    const Tensor row = images[i][0][0];
    const bool is_flipped = row[0].item<float>() > row[7].item<float>();
    flipped += is_flipped ? 1 : 0;
    const auto start = row.min().item<int64_t>();
    ASSERT_LE(start, 24);
    starts[static_cast<std::size_t>(start)] = true;
    expect_equal((is_flipped ? row.flip({0}) : row) - start, at::arange(8, at::kFloat),
                 "a window of the ramp");
    expect_equal(((data.get_batch(std::vector<int64_t>{i}, 3).images[0] + 1) * 127.5).round(), images[i],
                 "alone");
  }
  EXPECT_GT(flipped, 8);
  EXPECT_LT(flipped, 32);
  EXPECT_GT(std::count(starts.begin(), starts.end(), true), 10);
  EXPECT_FALSE(at::equal(data.get_batch(all, 4).images, data.get_batch(all, 3).images));
}

TEST(ImageFolder, ResizesWholeImagesToSquares) {
  const TemporaryFolder folder;
  const Tensor wide = at::rand({3, 6, 18});
  save_image(wide, folder / "before.png");
  save_image(at::rand({3, 6, 18}), folder / "after.png");
  save_image(at::rand({3, 9, 9}), folder / "square.png");
  write_file("{\"input\": \"before.png\", \"edited\": \"after.png\"}\n", folder / "metadata.jsonl");
  ImageFolderOptions options{.resolution = 6,
                             .random_flip = true,
                             .original_image_column = "input",
                             .image_interpolation_mode = "bicubic",
                             .image_column = "edited",
                             .resize_to_square = true};
  const ImageFolder data(folder.path(), options);
  EXPECT_EQ(data.size(), 1);
  EXPECT_TRUE(data.files().front().ends_with("after.png"));
  for (const uint64_t seed : {1U, 2U, 3U, 4U, 5U}) {
    const Batch batch = data.get_batch(std::vector<int64_t>{0}, seed);
    EXPECT_EQ(describe(batch.images), "float32 [1, 3, 6, 6] on cpu");
    expect_equal(batch.crop_top_lefts, at::zeros({1, 2}, at::kLong), "crop");
    // The same flip for both: the original is one of two images.
    const Tensor plain =
        resize_with(load_image(folder / "before.png").unsqueeze(0), 6, 6, ImageInterpolation::kBicubic);
    const Tensor expected = plain.to(at::kFloat) / 127.5 - 1;
    EXPECT_TRUE(at::allclose(batch.original_images, expected, 0, 1e-5) ||
                at::allclose(batch.original_images, expected.flip({3}), 0, 1e-5));
  }
  // An original of another shape is none of the same picture.
  write_file("{\"input\": \"square.png\", \"edited\": \"after.png\"}\n", folder / "metadata.jsonl");
  expect_throws_with<FileError>(
      [&] { ImageFolder(folder.path(), options).get_batch(std::vector<int64_t>{0}); },
      "square.png: 9 x 9 pixels, but its image has 18 x 6; expected the same aspect ratio");
  options.image_column = "none";
  expect_throws_with<FileError>([&] { ImageFolder wrong(folder.path(), options); }, "\"none\" is missing");
  expect_throws_with<ConfigError>(
      [&] { ImageFolder wrong(folder.path(), {.center_crop = true, .resize_to_square = true}); },
      "resize_to_square and center_crop are both true");
}

TEST(ImageFolder, WhatIsWrongIsNamed) {
  const TemporaryFolder folder;
  expect_throws_with<FileError>([&] { ImageFolder data(folder / "none"); }, "there is no such folder");
  expect_throws_with<FileError>([&] { ImageFolder data(folder.path()); }, "no PNG or JPEG files");
  save_image(at::zeros({1, 4, 4}), folder / "a.png");
  write_file("\xff\xd8\xff\xe0 not an image", folder / "broken.jpg");
  const ImageFolder data(folder.path());
  expect_throws_with<FileError>([&] { data.get_batch(std::vector<int64_t>{0, 1}); }, "broken.jpg");
  expect_throws_with<TensorError>([&] { data.get_batch(std::vector<int64_t>{2}); },
                                  "index 2 into a dataset of 2");
  create_folders(folder / "class");
  save_image(at::zeros({1, 4, 4}), folder / "class/a.png");
  expect_throws_with<FileError>([&] { ImageFolder mixed(folder.path()); }, "no common kind of label");
  expect_throws_with<ConfigError>([&] { ImageFolder wrong(folder.path(), {.resolution = 0}); },
                                  "resolution is 0");
  expect_throws_with<ConfigError>([&] { ImageFolder wrong(folder.path(), {.channels = 2}); },
                                  "channels is 2");
  expect_throws_with<ConfigError>([&] { ImageFolder wrong(folder.path(), {.max_samples = -3}); },
                                  "max_samples is -3");
}

}  // namespace
}  // namespace diffusers
