#include <string>

#include <diffusers/models/attention_layer.h>
#include <diffusers/models/embeddings.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/resnet.h>

#include <gtest/gtest.h>
#include <torch/nn.h>

#include "support/golden.h"

namespace diffusers::test {
namespace {

TEST(Layers, StartAndComputeAsThoseOfTorch) {
  const auto compare = [](auto ours, auto theirs, const Tensor& input) {
    const auto expected = theirs->named_parameters();
    for (const auto& item : ours->named_parameters())
      expect_equal(item.value(), expected[item.key()], item.key());
    expect_close(ours->forward(input), theirs->forward(input), 1e-6, 1e-6);
  };
  torch::manual_seed(1);
  layers::Linear linear(5, 7);
  layers::Conv2d conv(4, 6, layers::Conv2dOptions{.kernel_size = 3, .stride = 2, .padding = 1});
  layers::Embedding embedding(9, 3);
  torch::manual_seed(1);
  torch::nn::Linear torch_linear(5, 7);
  torch::nn::Conv2d torch_conv(torch::nn::Conv2dOptions(4, 6, 3).stride(2).padding(1));
  torch::nn::Embedding torch_embedding(9, 3);
  compare(linear, torch_linear, torch::randn({2, 5}));
  compare(conv, torch_conv, torch::randn({2, 4, 9, 7}));
  compare(embedding, torch_embedding, torch::tensor({0, 8, 3}));
  compare(layers::GroupNorm(2, 6), torch::nn::GroupNorm(2, 6), torch::randn({2, 6, 3, 3}));
  compare(layers::LayerNorm(6), torch::nn::LayerNorm(torch::nn::LayerNormOptions({6})), torch::randn({2, 6}));
}

TEST(Layers, ImpossibleSizesAreRefused) {
  EXPECT_THROW(layers::Linear(0, 3), ConfigError);
  EXPECT_THROW(layers::Conv2d(3, -1, layers::Conv2dOptions{}), ConfigError);
  EXPECT_THROW(layers::Conv2d(3, 3, layers::Conv2dOptions{.kernel_size = 0}), ConfigError);
  EXPECT_THROW(layers::Embedding(0, 3), ConfigError);
  EXPECT_THROW(layers::GroupNorm(0, 8), ConfigError);
  EXPECT_THROW(layers::GroupNorm(3, 8), ConfigError);
  EXPECT_THROW(layers::LayerNorm(0), ConfigError);
  EXPECT_THROW(Attention(AttentionLayerOptions{.query_dim = 8, .heads = 0}), ConfigError);
  EXPECT_THROW(GaussianFourierProjection(GaussianFourierProjectionOptions{.embedding_size = 0}), ConfigError);
  expect_throws_with<ConfigError>([] { layers::activation_from_name("tanh"); }, "act_fn is \"tanh\"");
}

TEST(Embeddings, TimestepsAreRefusedUnlessOneDimensional) {
  expect_throws_with<TensorError>([] { get_timestep_embedding(torch::zeros({2, 2}), 8); }, "float32 [2, 2]");
  expect_throws_with<ConfigError>([] { get_timestep_embedding(torch::zeros({2}), 2, true, 1); },
                                  "divides by zero");
}

TEST(Resampling, FilterKeepsConstants) {
  const auto image = torch::full({1, 2, 8, 8}, 3.0);
  // The border is left out, since zero padding affects it.
  expect_close(fir_upsample_2d(image).slice(2, 2, 14).slice(3, 2, 14), torch::full({1, 2, 12, 12}, 3.0), 1e-6,
               1e-6);
  expect_close(fir_downsample_2d(image).slice(2, 1, 3).slice(3, 1, 3), torch::full({1, 2, 2, 2}, 3.0), 1e-6,
               1e-6);
  expect_close(k_upsample_2d(image), torch::full({1, 2, 16, 16}, 3.0), 1e-6, 1e-6);
  expect_close(k_downsample_2d(image), torch::full({1, 2, 4, 4}, 3.0), 1e-6, 1e-6);
}

TEST(Attention, AcrossHeadsMatchesThePlainFormula) {
  torch::manual_seed(2);
  Attention attention(AttentionLayerOptions{.query_dim = 6,
                                            .cross_attention_dim = 5,
                                            .heads = 2,
                                            .dim_head = 4,
                                            .cross_attention_norm = CrossAttentionNorm::kLayerNorm});
  const auto hidden = torch::randn({2, 3, 6});
  const auto context = torch::randn({2, 7, 5});
  const auto p = attention->named_parameters();
  const auto normed = torch::layer_norm(context, {5}, p["norm_cross.weight"], p["norm_cross.bias"], 1e-5);
  const auto heads = [](const Tensor& x) { return x.view({2, x.size(1), 2, 4}).transpose(1, 2); };
  const auto q = heads(torch::linear(hidden, p["to_q.weight"]));
  const auto k = heads(torch::linear(normed, p["to_k.weight"]));
  const auto v = heads(torch::linear(normed, p["to_v.weight"]));
  const auto weights = torch::softmax(torch::matmul(q, k.transpose(2, 3)) / 2.0, -1);
  const auto mixed = torch::matmul(weights, v).transpose(1, 2).reshape({2, 3, 8});
  const auto expected = torch::linear(mixed, p["to_out.0.weight"], p["to_out.0.bias"]);
  expect_close(attention->forward(hidden, context), expected, 1e-5, 1e-5);
  EXPECT_THROW(attention->forward(torch::zeros({6})), TensorError);
}

}  // namespace
}  // namespace diffusers::test
