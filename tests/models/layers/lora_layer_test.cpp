#include "models/layers/lora_layer.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/lora_unet.h"
#include "support/golden.h"

namespace diffusers::test {
namespace {

TEST(LoraLayer, A1x1ConvolutionOfTokensHasTheSameAdapters) {
  for (const bool dora : {false, true}) {
    auto unet = lora_unet(at::kDouble);
    unet->add_adapter({.r = 2, .lora_alpha = 3, .target_modules = {"proj_in"}, .use_dora = dora});
    move_lora(unet);
    const auto module = unet->named_modules()["mid_block.attentions.0.proj_in"];
    const auto& conv = *module->as<layers::Conv2dImpl>();
    const auto image = lora_pattern({2, 8, 3, 5}, at::kDouble);
    const auto tokens = image.flatten(2).transpose(1, 2);
    const auto weight = conv.weight.flatten(1);
    const auto plain = torch::linear(tokens, weight, conv.bias);
    const auto found = LoraLayer::of(*module)->apply(tokens, plain, weight, conv.bias, nullptr);
    EXPECT_FALSE(torch::equal(found, plain));
    expect_close(found, conv.forward(image).flatten(2).transpose(1, 2), 1e-12, 1e-12, "tokens");
  }
}

TEST(LoraLayer, LayersWithoutAdaptersHaveNone) {
  const layers::Linear linear(2, 3);
  EXPECT_EQ(LoraLayer::of(*linear), nullptr);
  EXPECT_TRUE(adaptable_weight(*linear).is_same(linear->weight));
  EXPECT_FALSE(adaptable_weight(*layers::LayerNorm(2)).defined());
  EXPECT_TRUE(adapted_layers(*lora_unet()).empty());
  EXPECT_FALSE(lora_draws_random_numbers(*lora_unet()));
}

}  // namespace
}  // namespace diffusers::test
