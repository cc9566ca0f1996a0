#include <diffusers/models/denoiser.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/dropout.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;

/// A model that takes only the sample and its timesteps.
struct PlainNetImpl : torch::nn::Module {
  Tensor forward(const Tensor& x, const Tensor& t) { return x + t.view({-1, 1, 1, 1}); }
};
struct LabelTensorNetImpl : torch::nn::Module {
  Tensor forward(const Tensor& x, const Tensor&, const Tensor& class_labels = {}) {
    return class_labels.defined() ? x + class_labels.view({-1, 1, 1, 1}) : x;
  }
};
struct ConditionedNetImpl : torch::nn::Module {
  ConditionedNetImpl() { register_module("dropout", torch::nn::Dropout(0.25)); }
  Tensor forward(const Tensor& x, const Tensor&, const Conditioning& given) {
    return x + given.encoder_hidden_states.mean({1, 2}).view({-1, 1, 1, 1});
  }
};
TORCH_MODULE(PlainNet);
TORCH_MODULE(LabelTensorNet);
TORCH_MODULE(ConditionedNet);

static_assert(DenoisingModel<UNet2DModel> && DenoisingModel<UNet2DConditionModel>);
static_assert(DenoisingModel<std::shared_ptr<PlainNetImpl>> && !DenoisingModel<int>);

UNet2DModel tiny_unet() {
  return UNet2DModel({.sample_size = 8,
                      .in_channels = 2,
                      .out_channels = 1,
                      .down_block_types = {"DownBlock2D"},
                      .up_block_types = {"UpBlock2D"},
                      .block_out_channels = {8},
                      .layers_per_block = 1,
                      .dropout = 0.1,
                      .norm_num_groups = 4,
                      .num_class_embeds = 5});
}

UNet2DConditionModel tiny_condition_unet() {
  return UNet2DConditionModel({.sample_size = 8,
                               .in_channels = 3,
                               .out_channels = 1,
                               .down_block_types = {"CrossAttnDownBlock2D"},
                               .up_block_types = {"CrossAttnUpBlock2D"},
                               .block_out_channels = {8},
                               .layers_per_block = 1,
                               .norm_num_groups = 4,
                               .cross_attention_dim = 6,
                               .attention_head_dim = 4});
}

const Tensor kTimes = at::tensor({1, 2}, at::kLong);

TEST(Denoiser, CallsEachFormOfForward) {
  const Tensor x = at::randn({2, 1, 4, 4});
  EXPECT_TRUE(make_denoiser(PlainNet())(x, kTimes, {}).equal(x + kTimes.view({-1, 1, 1, 1})));
  const Conditioning labels{.class_labels = at::tensor({3, 4}, at::kLong)};
  EXPECT_TRUE(make_denoiser(LabelTensorNet())(x, kTimes, {}).equal(x));
  EXPECT_TRUE(
      make_denoiser(LabelTensorNet())(x, kTimes, labels).equal(x + labels.class_labels.view({-1, 1, 1, 1})));
  const Conditioning states{.encoder_hidden_states = at::ones({2, 3, 5})};
  EXPECT_TRUE(make_denoiser(ConditionedNet())(x, kTimes, states).equal(x + 1));
}

TEST(Denoiser, GivesUNet2DModelItsLabelsAndExtraChannels) {
  const at::NoGradGuard no_grad;
  UNet2DModel unet = tiny_unet();
  unet->eval();
  const Tensor x = at::randn({2, 1, 8, 8});
  const Tensor extra = at::randn({2, 1, 8, 8});
  const Tensor labels = at::tensor({3, 4}, at::kLong);
  const Tensor expected = unet->forward(at::cat({x, extra}, 1), kTimes, {.class_labels = labels}).sample;
  EXPECT_TRUE(
      make_denoiser(unet)(x, kTimes, {.class_labels = labels, .extra_channels = extra}).equal(expected));
}

TEST(Denoiser, GivesUNet2DConditionModelEveryInput) {
  const at::NoGradGuard no_grad;
  UNet2DConditionModel unet = tiny_condition_unet();
  unet->eval();
  const Tensor x = at::randn({2, 1, 8, 8});
  const Conditioning given{
      .encoder_hidden_states = at::randn({2, 4, 6}),
      .encoder_attention_mask = at::tensor({1, 1, 0, 0, 1, 0, 0, 0}, at::kLong).view({2, 4}),
      .extra_channels = at::randn({2, 2, 8, 8}),
      .down_block_additional_residuals = {at::randn({2, 8, 8, 8}), at::randn({2, 8, 8, 8})},
      .mid_block_additional_residual = at::randn({2, 8, 8, 8})};
  const Tensor expected =
      unet->forward(at::cat({x, given.extra_channels}, 1), kTimes, given.encoder_hidden_states,
                    {.down_block_additional_residuals = given.down_block_additional_residuals,
                     .mid_block_additional_residual = given.mid_block_additional_residual,
                     .encoder_attention_mask = given.encoder_attention_mask})
          .sample;
  const Denoiser denoiser = make_denoiser(unet);
  EXPECT_TRUE(denoiser(x, kTimes, given).equal(expected));
  Conditioning other = given;
  other.mid_block_additional_residual = given.mid_block_additional_residual + 1;
  EXPECT_FALSE(denoiser(x, kTimes, other).equal(expected));
}

TEST(Denoiser, RefusesInputsThatTheModelDoesNotTake) {
  const Tensor x = at::randn({2, 1, 4, 4});
  expect_throws_with<ConfigError>([&] { make_denoiser(PlainNet())(x, kTimes, {.class_labels = kTimes}); },
                                  "class_labels");
  expect_throws_with<ConfigError>(
      [&] {
        make_denoiser(LabelTensorNet())(x, kTimes, {.encoder_hidden_states = at::ones({2, 3, 5})});
      },
      "encoder_hidden_states");
  expect_throws_with<TensorError>(
      [&] {
        make_denoiser(PlainNet())(x, kTimes, {.extra_channels = at::ones({2, 1, 4, 5})});
      },
      "[2, 1, 4, 5]");
}

TEST(DenoiserInfo, TellsTheFactsOfTheConfig) {
  const DenoiserInfo unet = denoiser_info(tiny_unet());
  EXPECT_EQ(unet.in_channels, 2);
  EXPECT_EQ(unet.out_channels, 1);
  EXPECT_EQ(unet.num_class_embeds, 5);
  EXPECT_TRUE(unet.takes_class_labels);
  EXPECT_FALSE(unet.takes_encoder_hidden_states);
  EXPECT_EQ(unet.time_embedding_type, "positional");
  EXPECT_EQ(unet.dropout, 0.1);
  const DenoiserInfo condition = denoiser_info(tiny_condition_unet());
  EXPECT_TRUE(condition.takes_encoder_hidden_states);
  EXPECT_FALSE(condition.takes_class_labels);
  const DenoiserInfo own = denoiser_info(ConditionedNet());
  EXPECT_EQ(own.dropout, 0.25);
  EXPECT_FALSE(own.in_channels.has_value());
  EXPECT_FALSE(denoiser_info(PlainNet()).takes_class_labels);
  EXPECT_TRUE(denoiser_info(LabelTensorNet()).takes_class_labels);
}

TEST(Conditioning, SlicesEveryField) {
  const auto rows = [] { return at::arange(4, at::kFloat).view({4, 1}); };
  const Conditioning given{.class_labels = rows(),
                           .encoder_hidden_states = rows(),
                           .encoder_attention_mask = rows(),
                           .added_cond_kwargs = {.text_embeds = rows(),
                                                 .time_ids = rows(),
                                                 .image_embeds = rows(),
                                                 .hint = rows()},
                           .timestep_cond = rows(),
                           .attention_mask = rows(),
                           .extra_channels = rows(),
                           .down_block_additional_residuals = {rows(), rows()},
                           .mid_block_additional_residual = rows(),
                           .down_intrablock_additional_residuals = {rows()}};
  const auto& [labels, states, mask, added, cond, attention, extra, down, mid, intra] = given.slice(1, 3);
  const auto& [text, ids, image, hint] = added;
  const Tensor expected = at::tensor({1.F, 2.F}).view({2, 1});
  for (const Tensor& tensor : {labels, states, mask, cond, attention, extra, down[0], down[1], mid, intra[0],
                               text, ids, image, hint})
    EXPECT_TRUE(tensor.equal(expected));
  EXPECT_FALSE(Conditioning{}.slice(0, 2).class_labels.defined());
  expect_throws_with<TensorError>([&] { given.slice(2, 5); }, "rows 2 to 5 of class_labels");
}

}  // namespace
}  // namespace diffusers
