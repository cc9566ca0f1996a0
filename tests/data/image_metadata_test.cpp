// ImageFolder with metadata.jsonl or metadata.csv.

#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/image_folder.h>
#include <diffusers/io/image.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "data/transforms.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::TemporaryFolder;
using test::write_bytes;

std::vector<int64_t> positions_of(const ImageFolder& data) {
  std::vector<int64_t> all(static_cast<std::size_t>(data.size()));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

Batch whole_of(const ImageFolder& data, uint64_t seed = 0) {
  return data.get_batch(positions_of(data), seed);
}

/// A gray level for each name.
void save_level(const TemporaryFolder& folder, const std::string& name, int level) {
  save_image(at::full({3, 8, 8}, level, at::kByte), folder / name);
}

Tensor levels_of(const Tensor& images) {
  return ((images.select(3, 0).select(2, 0).select(1, 0) + 1) * 127.5).round().to(at::kLong);
}

TEST(ImageMetadata, RowsAreTheSamplesInTheirOrder) {
  const TemporaryFolder folder;
  create_folders(folder / "sub/deep");
  save_level(folder, "b.png", 10);
  save_level(folder, "sub/deep/a.png", 20);
  save_level(folder, "unnamed.png", 30);
  write_bytes(folder / "other.webp", "x");
  write_bytes(folder / "metadata.jsonl",
              "{\"file_name\": \"b.png\", \"text\": \"ten\"}\n"
              "{\"file_name\": \"./sub/deep/a.png\", \"text\": \"twenty\", \"more\": {\"x\": [1]}}\n"
              "{\"file_name\": \"b.png\", \"text\": \"ten again\"}\n");
  const ImageFolder data(folder.path(), {.resolution = 8, .center_crop = true, .caption_column = "text"});
  EXPECT_EQ(data.size(), 3);
  const Batch batch = whole_of(data);
  expect_equal(levels_of(batch.images), at::tensor({10, 20, 10}, at::kLong), "levels");
  EXPECT_EQ(batch.captions, (std::vector<std::string>{"ten", "twenty", "ten again"}));
  expect_equal(batch.indices, at::arange(3), "indices");
  EXPECT_FALSE(batch.class_labels.defined());
  EXPECT_FALSE(batch.conditioning_images.defined());
  EXPECT_TRUE(data.skipped_files().empty());
  EXPECT_EQ(data.files()[0], folder / "b.png");

  const ImageFolder two(folder.path(), {.resolution = 8, .max_samples = 2});
  EXPECT_EQ(whole_of(two).captions, (std::vector<std::string>{"ten", "twenty"}));
}

TEST(ImageMetadata, CsvGivesTheSame) {
  const TemporaryFolder folder;
  save_level(folder, "a.png", 10);
  save_level(folder, "b.png", 20);
  write_bytes(folder / "metadata.csv",
              "\xef\xbb\xbf"
              "file_name,text\r\nb.png,\"a \"\"b\"\",\nin two lines\"\r\na.png,plain\r\n");
  const ImageFolder data(folder.path(), {.resolution = 8});
  const Batch batch = whole_of(data);
  expect_equal(levels_of(batch.images), at::tensor({20, 10}, at::kLong), "levels");
  EXPECT_EQ(batch.captions, (std::vector<std::string>{"a \"b\",\nin two lines", "plain"}));
}

TEST(ImageMetadata, PathsAreRelativeToTheFolderOfTheMetadata) {
  const TemporaryFolder folder;
  for (const std::string name : {"one", "two/pictures"}) create_folders(folder / name);
  save_level(folder, "one/a.png", 10);
  save_level(folder, "two/pictures/a.png", 20);
  save_level(folder, "two/a.png", 30);
  write_bytes(folder / "one/metadata.csv", "file_name,text\na.png,first\n");
  write_bytes(folder / "two/metadata.jsonl", "{\"file_name\": \"pictures/a.png\", \"text\": \"second\"}\n");
  const ImageFolder data(folder.path() + "/", {.resolution = 8});
  const Batch batch = whole_of(data);
  expect_equal(levels_of(batch.images), at::tensor({10, 20}, at::kLong), "levels");
  EXPECT_EQ(batch.captions, (std::vector<std::string>{"first", "second"}));
}

TEST(ImageMetadata, ACaptionOfAListIsDrawnFromTheSeedAndThePosition) {
  const TemporaryFolder folder;
  save_level(folder, "a.png", 10);
  std::string rows;
  for (int i = 0; i < 40; ++i) rows += "{\"file_name\": \"a.png\", \"text\": [\"x\", \"y\", \"z\"]}\n";
  rows += "{\"file_name\": \"a.png\", \"text\": \"alone\"}\n";
  write_bytes(folder / "metadata.jsonl", rows);
  const ImageFolder data(folder.path(), {.resolution = 8});
  std::vector<std::string> firsts(40, "x");
  firsts.emplace_back("alone");
  EXPECT_EQ(whole_of(data, 0).captions, firsts);
  const auto captions = whole_of(data, 7).captions;
  std::map<std::string, int> counts;
  for (const std::string& caption : captions) ++counts[caption];
  for (const std::string name : {"x", "y", "z"}) EXPECT_GT(counts[name], 4) << name;
  EXPECT_EQ(counts["alone"], 1);
  EXPECT_NE(whole_of(data, 8).captions, captions);
  for (const int64_t i : positions_of(data))
    EXPECT_EQ(data.get_batch(std::vector<int64_t>{i}, 7).captions.front(),
              captions[static_cast<std::size_t>(i)]);
}

TEST(ImageMetadata, CompanionsHaveTheCropAndTheFlipOfTheirImage) {
  const TemporaryFolder folder;
  create_folders(folder / "more");
  const Tensor ramp = at::arange(0, 256, 4, at::kByte).view({1, 1, 64}).expand({3, 32, 64});
  const Tensor large = ramp.repeat_interleave(2, 1).repeat_interleave(2, 2);
  std::string rows;
  for (int i = 0; i < 30; ++i) {
    const std::string name = std::to_string(100 + i) + ".png";
    save_image(ramp, folder / name);
    save_image(large, folder / ("more/" + name));
    rows += "{\"file_name\": \"" + name + "\", \"before\": \"" + name + "\", \"mask\": \"" + name +
            "\", \"edges\": \"more/" + name + "\"}\n";
  }
  write_bytes(folder / "metadata.jsonl", rows);
  const ImageFolder data(folder.path(), {.resolution = 16,
                                         .random_flip = true,
                                         .conditioning_image_column = "edges",
                                         .original_image_column = "before",
                                         .mask_column = "mask"});
  const Batch batch = whole_of(data, 5);
  EXPECT_EQ(describe(batch.conditioning_images), "float32 [30, 3, 16, 16] on cpu");
  EXPECT_EQ(describe(batch.masks), "float32 [30, 1, 16, 16] on cpu");
  expect_equal(batch.original_images, batch.images, "original images");
  // The larger conditioning image is resized to the size of the image.
  expect_close(batch.conditioning_images * 2 - 1, batch.images, 0, 4.0 / 127.5, "conditioning images");
  const Tensor pixels = ((batch.images + 1) * 127.5).round();
  expect_equal(batch.masks, pixels.narrow(1, 0, 1).ge(128).to(at::kFloat), "masks");
  EXPECT_GE(batch.conditioning_images.min().item<float>(), 0);

  // SDXL's micro-conditioning has the position of the crop in the resized and flipped image.
  expect_equal(batch.original_sizes, at::tensor({32, 64}, at::kLong).expand({30, 2}), "sizes");
  const Tensor resized = resize_to_cover(ramp.unsqueeze(0), 16, 16);
  std::set<int64_t> lefts;
  int flips = 0;
  for (int64_t i = 0; i < 30; ++i) {
    const bool is_flipped = pixels[i][0][0][0].item<float>() > pixels[i][0][0][15].item<float>();
    flips += is_flipped ? 1 : 0;
    const auto top = batch.crop_top_lefts[i][0].item<int64_t>();
    const auto left = batch.crop_top_lefts[i][1].item<int64_t>();
    lefts.insert(left);
    EXPECT_EQ(top, 0);
    const Tensor whole = is_flipped ? resized.flip({3}) : resized;
    expect_equal(pixels[i], whole[0].narrow(2, left, 16).to(at::kFloat), "crop");
  }
  EXPECT_GT(lefts.size(), 5U);
  EXPECT_GT(flips, 5);
  EXPECT_LT(flips, 25);
}

TEST(ImageMetadata, LabelsAreNumbersOrNames) {
  const TemporaryFolder folder;
  create_folders(folder / "sub");
  save_level(folder, "sub/a.png", 10);
  const auto read = [&](const std::string& name, const std::string& text, const std::string& column = "") {
    for (const std::string old : {"metadata.csv", "metadata.jsonl"}) remove_file(folder / old);
    write_bytes(folder / name, text);
    return ImageFolder(folder.path(), {.resolution = 8, .label_column = column});
  };
  const std::string file = "{\"file_name\": \"sub/a.png\", ";
  const ImageFolder numbers = read("metadata.jsonl", file + "\"label\": 3}\n" + file + "\"label\": 0}\n");
  expect_equal(whole_of(numbers).class_labels, at::tensor({3, 0}, at::kLong), "numbers");
  EXPECT_EQ(numbers.class_count(), 4);
  EXPECT_TRUE(numbers.classes().empty());
  const ImageFolder names =
      read("metadata.jsonl",
           file + "\"label\": \"dog\"}\n" + file + "\"label\": \"cat\"}\n" + file + "\"label\": \"dog\"}\n");
  expect_equal(whole_of(names).class_labels, at::tensor({1, 0, 1}, at::kLong), "names");
  EXPECT_EQ(names.classes(), (std::vector<std::string>{"cat", "dog"}));
  EXPECT_EQ(names.class_count(), 2);
  const ImageFolder csv = read("metadata.csv", "file_name,kind\nsub/a.png,10\nsub/a.png,2\n", "kind");
  expect_equal(whole_of(csv).class_labels, at::tensor({10, 2}, at::kLong), "numbers in CSV");
  EXPECT_EQ(csv.class_count(), 11);
  const ImageFolder mixed = read("metadata.csv", "file_name,label\nsub/a.png,10\nsub/a.png,x2\n");
  expect_equal(whole_of(mixed).class_labels, at::tensor({0, 1}, at::kLong), "names in CSV");
  // With metadata, the names of sub-folders are not labels, as in Python.
  EXPECT_FALSE(whole_of(read("metadata.csv", "file_name\nsub/a.png\n")).class_labels.defined());

  expect_throws_with<FileError>(
      [&] { read("metadata.jsonl", file + "\"label\": -1}\n"); },
      "line 1: column \"label\" is -1, expected a whole number from 0 or a class name");
  expect_throws_with<FileError>([&] { read("metadata.jsonl", file + "\"label\": 3000000000}\n"); },
                                "is 3000000000");
  expect_throws_with<FileError>([&] { read("metadata.jsonl", file + "\"label\": 1.5}\n"); }, "is 1.5");
  expect_throws_with<FileError>(
      [&] { read("metadata.jsonl", file + "\"label\": 1}\n" + file + "\"label\": \"x\"}\n"); },
      "line 2: column \"label\" is \"x\", but other rows have numbers");
}

TEST(ImageMetadata, WhatIsWrongIsNamedWithItsLineAndColumn) {
  const TemporaryFolder folder;
  save_level(folder, "a.png", 10);
  save_image(at::zeros({3, 8, 12}), folder / "wide.png");
  const auto expect_error = [&](const std::string& rows, const std::string& part,
                                ImageFolderOptions options = {}) {
    write_bytes(folder / "metadata.jsonl", rows);
    expect_throws_with<FileError>([&] { ImageFolder data(folder.path(), options); },
                                  folder / "metadata.jsonl");
    expect_throws_with<FileError>([&] { ImageFolder data(folder.path(), options); }, part);
  };
  const std::string a = "{\"file_name\": \"a.png\", \"text\": \"x\"}\n";
  expect_error("\n", "no rows");
  expect_error(a + "{\"text\": \"x\"}\n", "line 2: column \"file_name\" is missing");
  expect_error(a + "{\"file_name\": 5, \"text\": \"x\"}\n",
               "line 2: column \"file_name\" is 5, expected a string");
  expect_error(a + "{\"file_name\": \"b.png\", \"text\": \"x\"}\n",
               "line 2: column \"file_name\" is \"b.png\": ");
  expect_error(a + "{\"file_name\": \"b.webp\", \"text\": \"x\"}\n",
               "is \"b.webp\", expected a PNG or JPEG file");
  expect_error(a + "{\"file_name\": \"\", \"text\": \"x\"}\n", "line 2: column \"file_name\" is \"\"");
  expect_error(a + "{\"file_name\": \"a.png\", \"text\": 5}\n", "line 2: column \"text\" is 5");
  expect_error(a + "{\"file_name\": \"a.png\"}\n",
               "line 2: column \"text\" is missing, unlike in the rows before");
  expect_error("{\"file_name\": \"a.png\"}\n" + a,
               "line 2: column \"text\" has a value, unlike in the rows before");
  expect_error(a, "line 1: column \"prompt\" is missing", {.caption_column = "prompt"});
  expect_error(a, "line 1: column \"edges\" is missing", {.conditioning_image_column = "edges"});
  expect_error(a, "line 1: column \"before\" is missing", {.original_image_column = "before"});
  expect_error(a, "line 1: column \"mask\" is missing", {.mask_column = "mask"});
  expect_error(a, "line 1: column \"kind\" is missing", {.label_column = "kind"});
  expect_error("{\"file_name\": \"a.png\", \"edges\": \"none.png\"}\n", "column \"edges\" is \"none.png\"",
               {.conditioning_image_column = "edges"});
  expect_error(a + "{\"file_name", "line 2: not valid JSON");

  write_bytes(folder / "metadata.jsonl", "{\"file_name\": \"a.png\", \"edges\": \"wide.png\"}\n");
  const ImageFolder other_shape(folder.path(), {.resolution = 8, .conditioning_image_column = "edges"});
  expect_throws_with<FileError>(
      [&] { whole_of(other_shape); },
      "wide.png: 12 x 8 pixels, but its image has 8 x 8; expected the same aspect ratio");

  write_bytes(folder / "metadata.csv", "file_name\na.png\n");
  expect_throws_with<FileError>([&] { ImageFolder data(folder.path()); },
                                "holds both metadata.csv and metadata.jsonl");
  remove_file(folder / "metadata.csv");
  remove_file(folder / "metadata.jsonl");
  write_bytes(folder / "metadata.parquet", "PAR1");
  expect_throws_with<FileError>([&] { ImageFolder data(folder.path()); }, "Parquet is not read");
  remove_file(folder / "metadata.parquet");
  for (const ImageFolderOptions& options :
       {ImageFolderOptions{.caption_column = "text"},
        ImageFolderOptions{.conditioning_image_column = "edges"},
        ImageFolderOptions{.original_image_column = "x"}, ImageFolderOptions{.mask_column = "x"},
        ImageFolderOptions{.image_column = "x"}, ImageFolderOptions{.label_column = "x"}})
    expect_throws_with<ConfigError>([&] { ImageFolder data(folder.path(), options); },
                                    "holds no metadata.jsonl or metadata.csv with such a column");
}

TEST(ImageMetadata, NamesDoNotLeadOutOfTheFolder) {
  const TemporaryFolder parent;
  for (const std::string name : {"data/sub", "outside"}) create_folders(parent / name);
  save_level(parent, "outside/secret.png", 10);
  save_level(parent, "data/inside.png", 20);
  ASSERT_EQ(::symlink("../outside/secret.png", (parent / "data/link.png").c_str()), 0);
  ASSERT_EQ(::symlink("../outside", (parent / "data/linked").c_str()), 0);
  ASSERT_EQ(::symlink("../inside.png", (parent / "data/sub/fine.png").c_str()), 0);
  for (const std::string name : {"../outside/secret.png", "sub/../../outside/secret.png", "link.png",
                                 "linked/secret.png", "sub", "sub\\\\x.png"}) {
    write_bytes(parent / "data/metadata.jsonl", "{\"file_name\": \"" + name + "\"}\n");
    expect_throws_with<FileError>([&] { ImageFolder data(parent / "data"); },
                                  "line 1: column \"file_name\" is");
  }
  write_bytes(parent / "data/metadata.jsonl",
              "{\"file_name\": \"" + (parent / "outside/secret.png") + "\"}\n");
  expect_throws_with<FileError>([&] { ImageFolder data(parent / "data"); },
                                "expected a path relative to the folder of the metadata");
  write_bytes(parent / "data/metadata.jsonl",
              "{\"file_name\": \"inside.png\"}\n{\"file_name\": \"sub/fine.png\"}\n");
  const ImageFolder data(parent / "data", {.resolution = 8});
  expect_equal(levels_of(whole_of(data).images), at::tensor({20, 20}, at::kLong), "links inside");
  // A file that is replaced by a link later is not followed either.
  remove_file(parent / "data/inside.png");
  ASSERT_EQ(::symlink("../outside/secret.png", (parent / "data/inside.png").c_str()), 0);
  expect_throws_with<FileError>([&] { whole_of(data); }, "a link leads out of the folder");
  // The metadata file is a link.
  remove_file(parent / "data/metadata.jsonl");
  write_bytes(parent / "outside/metadata.jsonl", "{\"file_name\": \"sub/fine.png\"}\n");
  ASSERT_EQ(::symlink("../outside/metadata.jsonl", (parent / "data/metadata.jsonl").c_str()), 0);
  expect_throws_with<FileError>([&] { ImageFolder leaving(parent / "data"); },
                                "a link leads out of the folder");
}

}  // namespace
}  // namespace diffusers
