#include "models/unet/row_parts.h"

#include <atomic>
#include <vector>

#include <diffusers/models/denoiser.h>
#include <diffusers/models/unet_2d.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/batchnorm.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/utils.h>

#include "support/golden.h"

namespace diffusers {
namespace {

TEST(RowParts, EachPartHasItsRows) {
  const Tensor rows = at::arange(5);
  const Conditioning given{.class_labels = rows, .down_block_additional_residuals = {rows.view({5, 1})}};
  const RowParts parts = cut_rows(rows.view({5, 1, 1, 1}), rows, given, 2);
  ASSERT_EQ(parts.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    const Tensor expected = i == 0 ? at::arange(3) : at::arange(3, 5);
    test::expect_equal(parts.samples[i].flatten(), expected);
    test::expect_equal(parts.timesteps[i], expected);
    test::expect_equal(parts.conditionings[i].class_labels, expected);
    test::expect_equal(parts.conditionings[i].down_block_additional_residuals[0].flatten(), expected);
  }
  EXPECT_EQ(cut_rows(rows.view({5, 1}), at::zeros({}), given, 5).size(), 5U);
  EXPECT_EQ(cut_rows(rows.view({5, 1}), at::zeros({}), given, 9).size(), 5U);
}

TEST(RowParts, KeepsABatchThatCannotBeDivided) {
  const Tensor rows = at::arange(4).view({4, 1});
  EXPECT_EQ(cut_rows(rows, at::arange(4), {}, 1).size(), 0U);
  EXPECT_EQ(cut_rows(rows.slice(0, 0, 1), at::arange(1), {}, 2).size(), 0U);
  EXPECT_EQ(cut_rows(rows, at::arange(1), {}, 2).size(), 0U);
  EXPECT_EQ(cut_rows(rows, at::arange(4), {.class_labels = at::arange(1)}, 2).size(), 0U);
  EXPECT_EQ(cut_rows(rows, at::arange(4), {.class_labels = at::zeros({})}, 2).size(), 0U);
}

UNet2DModel digit_unet() {
  torch::manual_seed(4);
  return UNet2DModel({.sample_size = 28,
                      .in_channels = 1,
                      .out_channels = 1,
                      .down_block_types = {"DownBlock2D", "DownBlock2D", "AttnDownBlock2D"},
                      .up_block_types = {"AttnUpBlock2D", "UpBlock2D", "UpBlock2D"},
                      .block_out_channels = {16, 32, 64},
                      .layers_per_block = 1,
                      .norm_num_groups = 8});
}

TEST(InAutomaticParts, GivesThePredictionOfTheWholeBatch) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  UNet2DModel unet = digit_unet();
  unet->eval();
  std::atomic<int> calls = 0;
  const Denoiser counted = [denoise = make_denoiser(unet), &calls](const Tensor& sample, const Tensor& t,
                                                                   const Conditioning& given) {
    ++calls;
    return denoise(sample, t, given);
  };
  const Denoiser divided = in_automatic_parts(counted, *unet);
  const Tensor sample = at::randn({6, 1, 28, 28});
  const auto predict = [&](const Denoiser& denoise, const Tensor& input, const Tensor& t) {
    const at::NoGradGuard no_grad;
    calls = 0;
    return denoise(input, t, {});
  };
  for (const Tensor& t : {at::full({}, 500, at::kLong), at::arange(6) * 100}) {
    const Tensor whole = predict(counted, sample, t);
    EXPECT_EQ(calls, 1);
    const Tensor parts = predict(divided, sample, t);
    EXPECT_EQ(calls, 2);
    test::expect_close(parts, whole, 1e-5, 1e-5);
    test::expect_equal(predict(divided, sample, t), parts);
  }
  predict(divided, sample.slice(0, 0, 1), at::zeros({}, at::kLong));
  EXPECT_EQ(calls, 1);  // one row
  calls = 0;
  divided(sample, at::zeros({}, at::kLong), {});
  EXPECT_EQ(calls, 1);  // with gradients
  at::set_num_threads(1);
  predict(divided, sample, at::zeros({}, at::kLong));
  EXPECT_EQ(calls, 1);
  at::set_num_threads(before);
}

/// A class of a user, whose forward may change the model.
class OwnUNet : public UNet2DModelImpl {
 public:
  using UNet2DModelImpl::UNet2DModelImpl;
};

TEST(InAutomaticParts, KeepsTheBatchesOfOtherModels) {
  EXPECT_TRUE(is_thread_safe_model(*digit_unet()));
  EXPECT_FALSE(is_thread_safe_model(OwnUNet(digit_unet()->config())));
  EXPECT_FALSE(has_batch_statistics(*digit_unet()));
  EXPECT_TRUE(has_batch_statistics(*torch::nn::Sequential(torch::nn::BatchNorm2d(3))));
}

}  // namespace
}  // namespace diffusers
