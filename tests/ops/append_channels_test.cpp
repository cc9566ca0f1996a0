#include "ops/append_channels.h"

#include <vector>

#include <diffusers/core/random.h>

#include <torch/autograd.h>

#include "ops/support.h"

namespace diffusers {
namespace {

using testing::leaf;
using testing::normal;

TEST(AppendChannels, MatchesCatBitForBit) {
  manual_seed(10);
  for (const auto dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    for (const int64_t batch : {0, 1, 3}) {
      const at::Tensor x = leaf(normal({batch, 5, 4, 3}), dtype);
      const at::Tensor residual = leaf(normal({batch, 2, 4, 3}), dtype);
      const at::Tensor y = append_channels(x, residual);
      const at::Tensor expected = at::cat({x, residual}, 1);
      EXPECT_TRUE(at::equal(y, expected));
      const at::Tensor grad = normal(y.sizes()).to(dtype);
      const auto gradients = torch::autograd::grad({y}, {x, residual}, {grad});
      EXPECT_TRUE(at::equal(gradients[0], grad.slice(1, 0, 5)));
      EXPECT_TRUE(at::equal(gradients[1], grad.slice(1, 5)));
      EXPECT_TRUE(gradients[0].is_contiguous());
    }
  }
}

TEST(AppendChannels, PromotesDtypesLikeCat) {
  const at::Tensor x = leaf(normal({2, 3, 4}), at::kBFloat16);
  const at::Tensor residual = leaf(normal({2, 2, 4}), at::kFloat);
  const at::Tensor y = append_channels(x, residual);
  EXPECT_EQ(y.scalar_type(), at::kFloat);
  const auto gradients = torch::autograd::grad({y.sum()}, {x, residual});
  EXPECT_EQ(gradients[0].scalar_type(), at::kBFloat16);
}

TEST(AppendChannels, HasGradientsOfGradientsAndPartialGradients) {
  manual_seed(11);
  const at::Tensor x = leaf(normal({2, 3, 4}), at::kFloat);
  const at::Tensor residual = normal({2, 2, 4});
  const at::Tensor loss = append_channels(x, residual).pow(3).sum();
  const auto first = torch::autograd::grad({loss}, {x}, {}, true, true)[0];
  const auto second = torch::autograd::grad({first.sum()}, {x})[0];
  testing::expect_close(second, 6 * x.detach(), 1e-6, "second gradient");
  const at::Tensor other = leaf(residual, at::kFloat);
  const auto gradient = torch::autograd::grad({append_channels(residual, other).sum()}, {other})[0];
  EXPECT_TRUE(at::equal(gradient, at::ones_like(other)));
}

}  // namespace
}  // namespace diffusers
