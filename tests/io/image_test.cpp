#include <cmath>
#include <limits>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/image.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/log_capture.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::golden_path;
using test::TemporaryFolder;

TEST(Image, EveryKindOfPngAndJpegHasThePixelsOfPillow) {
  const auto golden = test::load_golden("io.safetensors");
  const std::string folder = golden_path("io/images");
  for (const auto& name : list_folder(folder)) {
    // JPEG decoders may round the inverse transform and the chroma upsampling differently.
    const double tolerance = name.ends_with(".jpg") ? 1.0 : 0.0;
    const at::Tensor color = load_image(join_path(folder, name), {.channels = 3});
    EXPECT_EQ(color.scalar_type(), at::kByte);
    expect_close(color, golden["rgb/" + name], 0, tolerance, name);
    expect_close(load_image(join_path(folder, name), {.channels = 1}), golden["gray/" + name], 0, tolerance,
                 name);
    if (name.starts_with("turned"))
      expect_close(load_image(join_path(folder, name), {.exif_transpose = true}), golden["upright/" + name],
                   0, tolerance, name);
  }
}

TEST(Image, ChannelsOfTheFileAreKeptByDefault) {
  const std::string folder = golden_path("io/images");
  for (const std::string name : {"gray.png", "gray_16.png", "gray_alpha.png", "one_bit.png", "gray.jpg"})
    EXPECT_EQ(load_image(join_path(folder, name)).size(0), 1) << name;
  for (const std::string name : {"rgb.png", "rgba.png", "palette.png", "cmyk.jpg", "rgb.jpg"})
    EXPECT_EQ(load_image(join_path(folder, name)).size(0), 3) << name;
  expect_throws_with<ConfigError>([&] { load_image(join_path(folder, "rgb.png"), {.channels = 2}); },
                                  "channels is 2");
}

TEST(Image, SavedImagesLoadAgain) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.png";
  const at::Tensor color = at::randint(0, 256, {3, 5, 9}, at::kByte);
  save_image(color, path);
  expect_equal(load_image(path), color, "rgb");
  save_image(color.unsqueeze(0), path);
  expect_equal(load_image(path), color, "batch of one");
  save_image(color.narrow(0, 1, 1), path);
  expect_equal(load_image(path), color.narrow(0, 1, 1), "gray");
  save_image(at::cat({color, color.narrow(0, 0, 1)}), path);
  expect_equal(load_image(path), color, "rgba");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  save_image(at::tensor({-1.0F, 0.0F, 0.5F, 0.5019F, 1.0F, 7.0F, nan, HUGE_VALF}).reshape({1, 1, 8}), path);
  expect_equal(load_image(path), at::tensor({0, 0, 128, 128, 255, 255, 0, 255}, at::kByte).reshape({1, 1, 8}),
               "float");
  save_image(at::full({1, 2, 2}, 0.2, at::kHalf), path);
  expect_equal(load_image(path), at::full({1, 2, 2}, 51, at::kByte), "half");
  EXPECT_EQ(list_folder(folder.path()).size(), 1U);
}

TEST(Image, SizeAndRangeAreThoseAskedFor) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.png";
  const at::Tensor color = at::randint(0, 256, {3, 12, 20}, at::kByte);
  save_image(color, path);
  const auto resized = [&](int64_t height, int64_t width) {
    return at::_upsample_bilinear2d_aa(color.unsqueeze(0), {height, width}, false).squeeze(0);
  };
  expect_equal(load_image(path, {.size = 8}), resized(8, 8), "square");
  expect_equal(load_image(path, {.size = {6, 30}}), resized(6, 30), "height and width");
  expect_equal(load_image(path, {.size = {12, 20}}), color, "own size");
  expect_equal(load_image(path, {.range = PixelRange::kUnit}), color.to(at::kFloat).div(255), "unit");
  const at::Tensor is_signed = load_image(path, {.size = 8, .range = "signed"});
  expect_equal(is_signed, resized(8, 8).to(at::kFloat).div(255).sub(0.5).div(0.5), "signed");
  EXPECT_TRUE(is_signed.is_contiguous());
  EXPECT_EQ(load_image(path, {.size = 4, .range = "uint8", .channels = 1}).sizes(),
            at::IntArrayRef({1, 4, 4}));
  save_image(load_image(path, {.range = "unit"}), folder / "again.png");
  expect_equal(load_image(folder / "again.png"), color, "there and back");
  // The size is that of the upright image.
  const std::string turned = golden_path("io/images/turned_6.jpg");
  const at::Tensor upright = load_image(turned, {.exif_transpose = true});
  EXPECT_EQ(load_image(turned, {.size = {5, 9}, .exif_transpose = true}).sizes(),
            at::IntArrayRef({upright.size(0), 5, 9}));

  expect_throws_with<ConfigError>([&] { load_image(path, {.size = 0}); },
                                  "size holds 0, expected 1 to 16384");
  expect_throws_with<ConfigError>([&] { load_image(path, {.size = {4, 16385}}); }, "size holds 16385");
  expect_throws_with<ConfigError>([&] { load_image(path, {.size = {1, 2, 3}}); }, "size has 3 numbers");
  expect_throws_with<ConfigError>([&] { load_image(path, {.range = "float"}); },
                                  "range is \"float\", expected one of: \"uint8\" \"unit\" \"signed\"");
}

TEST(Image, JpegFilesAreCloseToTheImage) {
  const TemporaryFolder folder;
  const at::Tensor rows = at::arange(24).view({1, 24, 1}) * 4, columns = at::arange(40).view({1, 1, 40}) * 3;
  const at::Tensor color = at::cat({rows + columns, rows.flip({1}) + columns, rows + 2 * columns.flip({2})})
                               .clamp_max(255)
                               .to(at::kByte);
  for (const char* name : {"x.jpg", "x.jpeg"}) {
    save_image(color, folder / name);
    expect_close(load_image(folder / name).to(at::kFloat), color.to(at::kFloat), 0, 24, name);
    save_image(color[0].unsqueeze(0), folder / name);
    expect_close(load_image(folder / name).to(at::kFloat), color[0].unsqueeze(0).to(at::kFloat), 0, 6,
                 "gray");
  }
}

TEST(Image, WhatIsNoImageIsRefused) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.png";
  expect_throws_with<TensorError>([&] { save_image({}, path); }, "undefined");
  expect_throws_with<TensorError>([&] { save_image(at::ones({2, 2}), path); }, "[2, 2]");
  expect_throws_with<TensorError>([&] { save_image(at::ones({2, 3, 4, 4}), path); }, "[2, 3, 4, 4]");
  expect_throws_with<TensorError>([&] { save_image(at::ones({2, 4, 4}), path); }, "1, 3 or 4 channels");
  expect_throws_with<TensorError>([&] { save_image(at::ones({3, 0, 4}), path); }, "empty");
  expect_throws_with<TensorError>([&] { save_image(at::ones({3, 4, 4}, at::kLong), path); }, "int64");
  expect_throws_with<FileError>([&] { save_image(at::ones({3, 4, 4}), folder / "x.bmp"); }, ".png");
  expect_throws_with<TensorError>([&] { save_image(at::ones({4, 4, 4}), folder / "x.jpg"); }, "transparency");
  expect_throws_with<TensorError>([&] { save_image(at::ones({1, 1, 70000}), folder / "x.jpg"); }, "JPEG");
  expect_throws_with<FileError>(
      [&] {
        save_image(at::ones({3, 4, 4}), folder / "no/x.png");
      },
      "No such file");
  EXPECT_TRUE(list_folder(folder.path()).empty());
}

TEST(ImageGrid, LaysImagesOutRowByRow) {
  const at::Tensor images = at::arange(1, 6, at::kFloat).div(10).reshape({5, 1, 1, 1}).expand({5, 3, 2, 3});
  const at::Tensor grid = make_grid(images, {.columns = 3, .padding = 1, .pad_value = 1.0});
  EXPECT_EQ(shape_string(grid.sizes()), "[3, 7, 13]");
  EXPECT_FLOAT_EQ(grid[0][0][0].item<float>(), 1.0F);
  EXPECT_FLOAT_EQ(grid[0][1][1].item<float>(), 0.1F);
  EXPECT_FLOAT_EQ(grid[2][2][11].item<float>(), 0.3F);
  EXPECT_FLOAT_EQ(grid[1][4][5].item<float>(), 0.5F);
  EXPECT_FLOAT_EQ(grid[1][4][9].item<float>(), 1.0F);
  const at::Tensor distinct = at::arange(90, at::kFloat).div(90).reshape({5, 3, 2, 3});
  at::Tensor expected = at::ones({3, 7, 13});
  for (int64_t i = 0; i < 5; ++i) {
    const int64_t top = 1 + 3 * (i / 3);
    const int64_t left = 1 + 4 * (i % 3);
    expected.slice(1, top, top + 2).slice(2, left, left + 3).copy_(distinct[i]);
  }
  expect_equal(make_grid(distinct, {.columns = 3, .padding = 1, .pad_value = 1.0}), expected, "pixels");
  EXPECT_EQ(shape_string(make_grid(images.narrow(0, 0, 2)).sizes()), "[3, 6, 12]");
  EXPECT_EQ(make_grid(images.to(at::kByte), {.pad_value = 1}).max().item<int64_t>(), 255);
  expect_throws_with<ConfigError>([&] { make_grid(images, {.columns = 0}); }, "columns is 0");
  expect_throws_with<ConfigError>([&] { make_grid(images, {.padding = -1}); }, "padding is -1");
  expect_throws_with<ConfigError>([&] { make_grid(images, {.pad_value = NAN}); }, "pad_value");
  const TemporaryFolder folder;
  save_image_grid(images, folder / "samples.png", {.columns = 8});
  EXPECT_EQ(shape_string(load_image(folder / "samples.png").sizes()), "[3, 6, 27]");
}

TEST(Image, DamagedFilesThrowFileErrorOrLoad) {
  const TemporaryFolder folder;
  const std::string path = folder / "x";
  for (const std::string name : {"rgb.png", "rgb_interlaced.png", "palette.png", "rgb_16.png", "rgb.jpg",
                                 "rgb_progressive.jpg", "cmyk.jpg", "turned_6.jpg"}) {
    const std::string good = read_text_file(golden_path("io/images/" + name));
    // A file without its end marker (two bytes) or its last chunk is truncated.
    for (std::size_t size = 0; size + 2 < good.size(); size += size < 80 ? 1 : 29) {
      test::write_bytes(path, std::string_view(good).substr(0, size));
      EXPECT_THROW(load_image(path), FileError) << name << " cut at " << size;
    }
    for (std::size_t i = 0; i < good.size(); i += i < 200 ? 1 : 23) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ (1 << (i % 8)));
      test::write_bytes(path, bad);
      try {
        load_image(path, {.exif_transpose = true});
      } catch (const FileError& error) {
        EXPECT_NE(std::string(error.what()).find(path), std::string::npos) << error.what();
      }
    }
  }
  test::write_bytes(path, "GIF89a");
  expect_throws_with<FileError>([&] { load_image(path); }, "expected a PNG or JPEG");
}

TEST(Image, OddJpegsLoadWithOneWarningAFile) {
  // The comparison of their pixels with Pillow's is above.
  for (const auto& name : list_folder(golden_path("io/images"))) {
    const test::LogCapture log;
    const TemporaryFolder folder;
    test::write_bytes(folder / name, read_text_file(golden_path("io/images/" + name)));
    for (int i = 0; i < 2; ++i) load_image(folder / name);
    ASSERT_EQ(log.messages().size(), name.starts_with("odd_") ? 1U : 0U) << name;
    if (log.messages().empty()) continue;
    EXPECT_NE(log.messages().front().find(folder / name), std::string::npos) << log.messages().front();
    EXPECT_NE(log.messages().front().find("loaded with a warning: "), std::string::npos);
  }
}

TEST(Image, DamagedPixelsOfJpegsAreAnError) {
  const TemporaryFolder folder;
  const std::string path = folder / "x.jpg";
  for (const std::string name : {"rgb.jpg", "rgb_progressive.jpg", "odd_scan.jpg", "odd_gap.jpg"}) {
    const std::string good = read_text_file(golden_path("io/images/" + name));
    const std::size_t half = good.size() - (good.size() - good.rfind("\xff\xda")) / 2;
    test::write_bytes(path, std::string_view(good).substr(0, half));
    expect_throws_with<FileError>([&] { load_image(path); }, "Premature end of JPEG file");
    // The compressed data ends early, but the end marker is present.
    test::write_bytes(path, good.substr(0, half) + "\xff\xd9");
    EXPECT_THROW(load_image(path), FileError) << name;
  }
}

TEST(Image, SizesAreCheckedBeforeDecoding) {
  const TemporaryFolder folder;
  const std::string path = folder / "x";
  std::string jpeg = read_text_file(golden_path("io/images/rgb.jpg"));
  const std::size_t frame = jpeg.find("\xff\xc0");
  ASSERT_NE(frame, std::string::npos);
  jpeg.replace(frame + 5, 4, "\xff\x01\xff\x01");
  test::write_bytes(path, jpeg);
  expect_throws_with<FileError>([&] { load_image(path); }, "65281 x 65281 pixels, at most 178956970");
  jpeg.replace(frame + 5, 4, "\x20\x20\x20\x20");
  test::write_bytes(path, jpeg);
  expect_throws_with<FileError>([&] { load_image(path); }, "cannot come from");
}

// libpng would allocate 1.4 GB for the chunk before it finds that the file ends.
TEST(Image, ChunksAreNotLargerThanTheFileCanHold) {
  const TemporaryFolder folder;
  const std::string path = folder / "large_chunk.png";
  const std::string_view bytes(
      "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\5\0\0\0\4\x08\0\0\0\0\x63\x58\xaa\x9c"
      "\x58\0\0\0eXIfII*\0\x08\0\0\0",
      49);
  // The file ends after the name of the chunk, or later.
  for (std::size_t size = 41; size <= bytes.size(); ++size) {
    test::write_bytes(path, bytes.substr(0, size));
    expect_throws_with<FileError>([&] { load_image(path); },
                                  "the file ends early, in chunk \"eXIf\" of 1476395008 bytes");
  }
}

}  // namespace
}  // namespace diffusers
