#include "ops/upsample.h"

#include <vector>

#include <diffusers/core/random.h>

#include <torch/autograd.h>

#include "ops/support.h"

namespace diffusers {
namespace {

using testing::FusedCpu;
using testing::leaf;
using testing::normal;
using testing::Threads;

struct Upsampled {
  at::Tensor image, gradient;
};

Upsampled upsample_and_differentiate(const at::Tensor& image, const at::Tensor& grad) {
  const at::Tensor input = leaf(image, image.scalar_type());
  const at::Tensor result = upsample_double(input);
  return {result.detach(), torch::autograd::grad({result}, {input}, {grad})[0]};
}

TEST(UpsampleDouble, HasTheBitsOfLibTorch) {
  manual_seed(7);
  const std::vector<std::vector<int64_t>> shapes{{1, 1, 1, 1}, {2, 3, 5, 7}, {1, 4, 33, 17}, {3, 32, 14, 14}};
  for (const auto& shape : shapes) {
    SCOPED_TRACE(::testing::PrintToString(shape));
    const at::Tensor image = normal(shape);
    const at::Tensor grad = normal({shape[0], shape[1], 2 * shape[2], 2 * shape[3]});
    Upsampled expected;
    {
      const FusedCpu disabled(false);
      expected = upsample_and_differentiate(image, grad);
    }
    for (const int threads : {1, 2}) {
      const Threads guard(threads);
      const auto actual = upsample_and_differentiate(image, grad);
      EXPECT_TRUE(at::equal(actual.image, expected.image));
      EXPECT_TRUE(at::equal(actual.gradient, expected.gradient));
    }
    EXPECT_TRUE(at::equal(upsample_double(image), expected.image)) << "without gradients";
  }
}

TEST(UpsampleDouble, OtherImagesAreLibTorchs) {
  const auto expect_same = [](const at::Tensor& image) {
    const at::Tensor expected = at::upsample_nearest2d(image, {2 * image.size(2), 2 * image.size(3)});
    const at::Tensor actual = upsample_double(image);
    EXPECT_TRUE(at::equal(actual, expected));
    EXPECT_EQ(actual.strides(), expected.strides());
  };
  const at::Tensor image = normal({2, 3, 4, 5});
  expect_same(image.slice(0, 0, 0));
  expect_same(image.contiguous(at::MemoryFormat::ChannelsLast));
  expect_same(image.to(at::kDouble));
}

TEST(UpsampleDouble, StridedGradientsAndSecondDerivatives) {
  const at::Tensor image = normal({2, 3, 4, 5});
  const at::Tensor grad = normal({2, 3, 8, 10});
  const auto strided = upsample_and_differentiate(image, grad.contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(at::equal(strided.gradient, upsample_and_differentiate(image, grad).gradient));

  const at::Tensor input = leaf(image, at::kFloat);
  const at::Tensor first =
      torch::autograd::grad({upsample_double(input).square().sum()}, {input}, {}, true, true)[0];
  // The sum of squares is 4 x^2, its gradient 8 x, and the sum of the squares of the gradient 64 x^2.
  const at::Tensor second = torch::autograd::grad({first.square().sum()}, {input})[0];
  EXPECT_TRUE(at::allclose(second, 128 * image));
}

}  // namespace
}  // namespace diffusers
