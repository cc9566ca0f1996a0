#include "io/image_size.h"

#include <string>

#include <diffusers/io/image.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;
using test::TemporaryFolder;

TEST(StoredImageSize, IsThatOfTheDecodedImage) {
  const std::string folder = test::golden_path("io/images");
  int compared = 0;
  for (const std::string& name : list_folder(folder)) {
    const std::string path = join_path(folder, name);
    Tensor image;
    try {
      image = load_image(path, {.exif_transpose = true});
    } catch (const FileError&) {
      continue;  // a damaged file
    }
    const StoredImageSize size = read_image_size(InputFile(path));
    EXPECT_EQ(size.height, image.size(1)) << name;
    EXPECT_EQ(size.width, image.size(2)) << name;
    ++compared;
  }
  EXPECT_GT(compared, 10);
}

TEST(StoredImageSize, OtherFilesAreRefused) {
  const TemporaryFolder folder;
  const auto refuse = [&](std::string_view bytes, std::string_view message) {
    test::write_bytes(folder / "x.png", bytes);
    expect_throws_with<FileError>([&] { read_image_size(InputFile(folder / "x.png")); }, message);
  };
  refuse("", "x.png: expected a PNG or JPEG image");
  refuse("GIF89a", "expected a PNG or JPEG image");
  refuse("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1\n", "Git LFS pointer");
  save_image(at::zeros({3, 4, 5}), folder / "whole.png");
  const std::string whole = read_text_file(folder / "whole.png");
  refuse(whole.substr(0, 20), "the PNG file has no valid size");
  refuse(std::string("\xff\xd8\xff\xe0\x00\x10", 6) + std::string(1 << 20, 'x'),
         "the JPEG file has no valid size");
}

}  // namespace
}  // namespace diffusers
