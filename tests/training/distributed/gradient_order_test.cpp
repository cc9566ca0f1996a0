#include "training/distributed/gradient_order.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include <diffusers/models/gradient_checkpointing.h>
#include <diffusers/models/unet_2d.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "training/loop/fused_backward.h"

namespace diffusers {
namespace {

/// Records the order in which the gradients arrive.
std::vector<int64_t> arrivals(const std::vector<Tensor>& parameters, const Tensor& loss) {
  std::vector<int64_t> order;
  const FusedBackward hooks(parameters, at::zeros({}), [&](const Tensor& parameter, const Tensor&) {
    const auto place = std::find_if(parameters.begin(), parameters.end(),
                                    [&](const Tensor& each) { return each.is_same(parameter); });
    order.push_back(place - parameters.begin());
  });
  loss.backward();
  return order;
}

TEST(GradientOrder, IsThatOfTheBackwardPass) {
  const auto parameter = [] { return at::ones({2}).set_requires_grad(true); };
  const std::vector<Tensor> parameters{parameter(), parameter(), parameter(), parameter()};
  // The third is used first, and again last; the second is not used.
  const Tensor first = parameters[2] * 2;
  const Tensor second = (first * parameters[3]).exp();
  const Tensor loss = (second * parameters[0] * parameters[2]).sum();
  EXPECT_EQ(order_of_gradients(parameters, loss), (std::vector<int64_t>{0, 3, 2, 1}));
  EXPECT_EQ(arrivals(parameters, loss), (std::vector<int64_t>{0, 3, 2}));
}

TEST(GradientOrder, OfAUNetFollowsItsBlocks) {
  for (const bool is_checkpointed : {false, true}) {
    UNet2DModel unet({.sample_size = 8,
                      .in_channels = 1,
                      .out_channels = 1,
                      .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                      .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                      .block_out_channels = {8, 16},
                      .layers_per_block = 1,
                      .norm_num_groups = 4});
    unet->train();
    if (is_checkpointed) unet->enable_gradient_checkpointing();
    const std::vector<Tensor> parameters = unet->parameters();
    const Tensor loss = unet->forward(at::ones({1, 1, 8, 8}), at::ones({1}, at::kLong)).sample.square().sum();
    const std::vector<int64_t> expected = order_of_gradients(parameters, loss);
    const std::vector<int64_t> found = arrivals(parameters, loss);
    ASSERT_EQ(found.size(), expected.size());
    // Gradients of one node may come in any order.
    int64_t farthest = 0;
    for (std::size_t i = 0; i < found.size(); ++i)
      farthest = std::max(farthest, std::abs(std::find(expected.begin(), expected.end(), found[i]) -
                                             expected.begin() - static_cast<int64_t>(i)));
    EXPECT_LE(farthest, is_checkpointed ? 12 : 4) << "of " << found.size() << " parameters";
  }
}

}  // namespace
}  // namespace diffusers
