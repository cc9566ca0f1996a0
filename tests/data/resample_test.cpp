// The filters of --image_interpolation_mode against Pillow.

#include "data/resample.h"

#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/data/image_folder.h>
#include <diffusers/io/files.h>
#include <diffusers/io/image.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "io/image_tensor.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;
using test::TemporaryFolder;

constexpr const char* kInterpolationGolden = "image_interpolation.safetensors";

TEST(Resample, GivesThePixelsOfPillow) {
  const auto golden = test::load_golden(kInterpolationGolden);
  const Tensor image = golden["image"].unsqueeze(0);
  int count = 0;
  for (const auto& [name, expected] : golden.tensors) {
    if (name == "image") continue;
    const auto mode = enum_from_name<ImageInterpolation>(name.substr(0, name.find('/')), "mode");
    expect_equal(resize_with(image, expected.size(1), expected.size(2), mode)[0], expected, name);
    ++count;
  }
  EXPECT_EQ(count, 36);
}

TEST(Resample, ReadsImagesThatAreNotContiguous) {
  const auto golden = test::load_golden(kInterpolationGolden);
  const Tensor image = golden["image"].permute({1, 2, 0}).contiguous().permute({2, 0, 1}).unsqueeze(0);
  for (const ImageInterpolation mode : {ImageInterpolation::kLanczos, ImageInterpolation::kNearest})
    expect_equal(resize_with(image, 16, 11, mode)[0], golden[std::string(enum_name(mode)) + "/16x11"],
                 enum_name(mode));
}

TEST(Resample, BilinearIsThatOfTensors) {
  const Tensor image = test::load_golden(kInterpolationGolden)["image"].unsqueeze(0);
  expect_equal(resize_with(image, 16, 11, ImageInterpolation::kBilinear), resize_pixels(image, 16, 11));
}

TEST(ImageFolder, ResizesWithTheFilterOfTheFlag) {
  const auto golden = test::load_golden(kInterpolationGolden);
  const TemporaryFolder folder;
  for (const char* name : {"a.png", "b.png"}) save_image(golden["image"], folder / name);
  write_file("{\"file_name\": \"a.png\", \"edges\": \"b.png\", \"before\": \"b.png\", \"mask\": \"b.png\"}\n",
             folder / "metadata.jsonl");
  const auto read = [&](EnumChoice<ImageInterpolation> mode) {
    return ImageFolder(folder.path(), {.resolution = 22,
                                       .center_crop = true,
                                       .conditioning_image_column = "edges",
                                       .original_image_column = "before",
                                       .mask_column = "mask",
                                       .image_interpolation_mode = mode})
        .get_batch(std::vector<int64_t>{0});
  };
  for (const char* mode : {"lanczos", "nearest", "bicubic"}) {
    SCOPED_TRACE(mode);
    const Tensor resized =
        resize_with(golden["image"].unsqueeze(0), 22, 31, enum_from_name<ImageInterpolation>(mode, "mode"));
    const Tensor pixels = resized.narrow(3, 4, 22).to(at::kFloat);
    const Batch batch = read(mode);
    expect_equal(batch.images, (pixels / 255 - 0.5) / 0.5);
    expect_equal(batch.conditioning_images, pixels / 255);
    expect_equal(batch.original_images, batch.images);
    expect_equal(batch.masks, read("bilinear").masks);
  }
  expect_throws_with<ConfigError>([&] { read("cubic"); }, "image_interpolation_mode");
}

}  // namespace
}  // namespace diffusers
