#include "models/layers/lora_keys.h"

#include <string>
#include <utility>

#include <gtest/gtest.h>

namespace diffusers::test {
namespace {

// Names of kohya-ss files for Stable Diffusion XL, and the layers that diffusers 0.42.1 loads them into.
TEST(LoraKeys, LayersOfTheOriginalUNetHaveItsNames) {
  const auto name = [](const std::string& path, bool has_attention = true) {
    return original_unet_path(path, /*layers_per_block=*/2, has_attention);
  };
  EXPECT_EQ(name("conv_in"), "input_blocks.0.0");
  EXPECT_EQ(name("conv_out"), "out.2");
  EXPECT_EQ(name("time_embedding.linear_1"), "time_embed.0");
  EXPECT_EQ(name("add_embedding.linear_2"), "label_emb.0.2");
  EXPECT_EQ(name("down_blocks.0.resnets.1.conv1"), "input_blocks.2.0.in_layers.2");
  EXPECT_EQ(name("down_blocks.0.downsamplers.0.conv"), "input_blocks.3.0.op");
  EXPECT_EQ(name("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"),
            "input_blocks.4.1.transformer_blocks.0.attn1.to_q");
  EXPECT_EQ(name("down_blocks.2.attentions.1.proj_in"), "input_blocks.8.1.proj_in");
  EXPECT_EQ(name("mid_block.resnets.0.conv2"), "middle_block.0.out_layers.3");
  EXPECT_EQ(name("mid_block.attentions.0.proj_out"), "middle_block.1.proj_out");
  EXPECT_EQ(name("mid_block.resnets.1.time_emb_proj"), "middle_block.2.emb_layers.1");
  EXPECT_EQ(name("up_blocks.0.resnets.0.conv_shortcut"), "output_blocks.0.0.skip_connection");
  EXPECT_EQ(name("up_blocks.0.upsamplers.0.conv"), "output_blocks.2.2.conv");
  EXPECT_EQ(name("up_blocks.0.upsamplers.0.conv", false), "output_blocks.2.1.conv");
  EXPECT_EQ(name("up_blocks.1.attentions.2.transformer_blocks.1.ff.net.0.proj"),
            "output_blocks.5.1.transformer_blocks.1.ff.net.0.proj");
  EXPECT_EQ(name("encoder_hid_proj"), "encoder_hid_proj");
}

}  // namespace
}  // namespace diffusers::test
