#include "models/concat_channels.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "support/golden.h"

namespace diffusers::test {
namespace {

TEST(ConcatChannels, AverageImagesDownToTheLatents) {
  const Tensor images = torch::arange(16, torch::kFloat).view({1, 1, 4, 4}) / 16;
  const Tensor latents = torch::zeros({1, 3, 2, 2}, torch::kDouble);
  const Tensor expected =
      torch::tensor({2.5, 4.5, 10.5, 12.5}, torch::kDouble).view({1, 1, 2, 2}) / 16 * 2 - 1;
  expect_equal(resized_conditioning_images(images, latents), expected);
}

TEST(ConcatChannels, PutTheNearestPixelOfAMaskBeforeTheMaskedLatents) {
  const Tensor masks = torch::eye(4).view({1, 1, 4, 4});
  const Tensor latents = torch::rand({1, 2, 2, 2});
  const Tensor channels = inpainting_channels(masks, latents);
  expect_equal(channels.slice(1, 0, 1), torch::eye(2).view({1, 1, 2, 2}));
  expect_equal(channels.slice(1, 1), latents);
}

}  // namespace
}  // namespace diffusers::test
