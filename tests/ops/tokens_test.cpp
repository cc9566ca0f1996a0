#include "ops/tokens.h"

#include <string>
#include <vector>

#include <diffusers/core/random.h>

#include <torch/autograd.h>

#include "ops/cpu/kernels.h"
#include "ops/reference.h"
#include "ops/support.h"

namespace diffusers {
namespace {

using testing::leaf;
using testing::normal;

const std::vector<std::vector<int64_t>> kImageSizes{
    {1, 1, 1, 1}, {2, 8, 4, 2}, {3, 5, 7, 7}, {2, 64, 14, 14}, {1, 33, 1, 40}, {2, 320, 3, 11}, {0, 4, 3, 3}};

at::Tensor plain_tokens(const at::Tensor& image) { return image.flatten(2).transpose(1, 2).contiguous(); }

TEST(Tokens, MatchLibTorchBitForBit) {
  manual_seed(6);
  for (const auto& sizes : kImageSizes) {
    for (const auto dtype : {at::kFloat, at::kDouble}) {
      SCOPED_TRACE(::testing::PrintToString(sizes));
      const at::Tensor image = leaf(normal(sizes), dtype);
      const at::Tensor tokens = leaf(plain_tokens(normal(sizes)), dtype);
      const at::Tensor to = image_to_tokens(image);
      EXPECT_TRUE(to.is_contiguous());
      EXPECT_TRUE(at::equal(to, plain_tokens(image)));
      const at::Tensor sum = add_tokens(image, tokens);
      EXPECT_TRUE(sum.is_contiguous());
      EXPECT_TRUE(at::equal(sum, image + tokens.transpose(1, 2).reshape(sizes)));
      const at::Tensor back = tokens_to_image(tokens, sizes);
      EXPECT_TRUE(back.is_contiguous());
      EXPECT_TRUE(at::equal(back, tokens.transpose(1, 2).reshape(sizes)));

      const at::Tensor grad = normal(sizes).to(dtype);
      const auto gradients = torch::autograd::grad({sum}, {image, tokens}, {grad});
      EXPECT_TRUE(at::equal(gradients[0], grad));
      EXPECT_TRUE(at::equal(gradients[1], plain_tokens(grad)));
      EXPECT_TRUE(at::equal(torch::autograd::grad({to}, {image}, {plain_tokens(grad)})[0], grad));
      EXPECT_TRUE(at::equal(torch::autograd::grad({back}, {tokens}, {grad})[0], plain_tokens(grad)));
    }
  }
}

TEST(Tokens, LayoutsDoNotMatter) {
  const at::Tensor image = normal({2, 6, 5, 4});
  const at::Tensor tokens = normal({2, 20, 6});
  const at::Tensor other = image.contiguous(at::MemoryFormat::ChannelsLast);
  const at::Tensor apart = tokens.transpose(1, 2).contiguous().transpose(1, 2);
  EXPECT_TRUE(at::equal(image_to_tokens(other), plain_tokens(image)));
  EXPECT_TRUE(at::equal(add_tokens(other, apart), add_tokens(image, tokens)));
  EXPECT_TRUE(add_tokens(other, apart).is_contiguous());
  EXPECT_TRUE(at::equal(tokens_to_image(apart, image.sizes()), tokens_to_image(tokens, image.sizes())));
  // The backward of a sum passes a gradient with strides of zero.
  const at::Tensor input = leaf(tokens, at::kFloat);
  EXPECT_TRUE(
      at::equal(torch::autograd::grad({add_tokens(image, input).sum()}, {input})[0], at::ones_like(tokens)));
}

TEST(Tokens, HaveGradientsOfGradients) {
  manual_seed(9);
  const at::Tensor image = leaf(normal({2, 6, 5, 4}), at::kFloat);
  const at::Tensor tokens = leaf(normal({2, 20, 6}), at::kFloat);
  const at::Tensor loss = (add_tokens(image, tokens).square() * image_to_tokens(image).square().mean()).sum();
  const auto first = torch::autograd::grad({loss}, {tokens}, {}, true, true)[0];
  const auto second = torch::autograd::grad({first.square().sum()}, {tokens})[0];
  // loss = m sum (image + tokens)^2, so the first gradient is 2 m (image + tokens).
  const at::Tensor mean = image.square().mean();
  testing::expect_close(second,
                        8 * mean * mean * plain_tokens(image + tokens_to_image(tokens, image.sizes())), 1e-5,
                        "second gradient");
}

TEST(Tokens, GroupNormOfTokensIsTheTransposedGroupNorm) {
  manual_seed(7);
  for (const auto& sizes : kImageSizes) {
    SCOPED_TRACE(::testing::PrintToString(sizes));
    const int64_t groups = sizes[1] % 4 == 0 ? 4 : 1;
    const at::Tensor grad = normal(sizes);
    const auto run = [&](bool tokens, at::ScalarType dtype) {
      manual_seed(8);
      const at::Tensor x = leaf(normal(sizes), dtype);
      const at::Tensor weight = leaf(normal({sizes[1]}), dtype);
      const at::Tensor bias = leaf(normal({sizes[1]}), dtype);
      const at::Tensor y = tokens ? group_norm_tokens(x, groups, weight, bias, 1e-5)
                                  : plain_tokens(group_norm(x, groups, weight, bias));
      EXPECT_TRUE(y.is_contiguous());
      auto result = torch::autograd::grad({y}, {x, weight, bias}, {plain_tokens(grad).to(dtype)});
      result.push_back(y.detach());
      return result;
    };
    for (const auto dtype : {at::kFloat, at::kDouble}) {
      const auto expected = run(false, dtype);
      const auto actual = run(true, dtype);
      for (std::size_t k = 0; k < expected.size(); ++k) EXPECT_TRUE(at::equal(actual[k], expected[k])) << k;
    }
  }
}

}  // namespace
}  // namespace diffusers
