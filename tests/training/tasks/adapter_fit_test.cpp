#include "training/tasks/adapter_fit.h"

#include <vector>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_throws_with;

UNet2DConditionModelConfig xl_blocks() {
  return {.down_block_types = {"DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"},
          .block_out_channels = {320, 640, 1280}};
}

TEST(AdapterFit, MakesTheAdaptersOfPython) {
  const T2IAdapterConfig sd = new_adapter_config({}, /*is_xl=*/false, 8);
  EXPECT_EQ(sd.adapter_type, T2IAdapterType::kFullAdapter);
  EXPECT_EQ(sd.channels, (std::vector<int64_t>{320, 640, 1280, 1280}));
  EXPECT_EQ(sd.downscale_factor, 8);
  const T2IAdapterConfig xl = new_adapter_config(xl_blocks(), /*is_xl=*/true, 8);
  EXPECT_EQ(xl.adapter_type, T2IAdapterType::kFullAdapterXl);
  EXPECT_EQ(xl.channels, (std::vector<int64_t>{320, 640, 1280, 1280}));
  EXPECT_EQ(xl.downscale_factor, 16);
  for (const T2IAdapterConfig& config : {sd, xl}) {
    EXPECT_EQ(config.in_channels, 3);
    EXPECT_EQ(config.num_res_blocks, 2);
  }
  // Blocks of a small model, which only the other type fits.
  const T2IAdapterConfig other = new_adapter_config(
      {.down_block_types = {"DownBlock2D", "CrossAttnDownBlock2D"}, .block_out_channels = {32, 64}},
      /*is_xl=*/false, 2);
  EXPECT_EQ(other.adapter_type, T2IAdapterType::kFullAdapterXl);
  EXPECT_EQ(other.channels, (std::vector<int64_t>{32, 64}));
  EXPECT_EQ(other.downscale_factor, 4);
}

TEST(AdapterFit, KnowsTheFeaturesOfEveryType) {
  EXPECT_EQ(adapter_features({.channels = {4, 6, 8}, .downscale_factor = 8}),
            (std::vector<FeatureSize>{{4, 8}, {6, 16}, {8, 32}}));
  EXPECT_EQ(
      adapter_features({.channels = {4, 6, 8, 8}, .downscale_factor = 16, .adapter_type = "full_adapter_xl"}),
      (std::vector<FeatureSize>{{4, 16}, {6, 16}, {8, 32}, {8, 32}}));
  // A light adapter has one more block.
  const T2IAdapterConfig light{.channels = {320, 640, 1280}, .adapter_type = "light_adapter"};
  EXPECT_EQ(adapter_features(light).size(), 4U);
  EXPECT_EQ(adapter_misfit(light, {}, 8), "");
}

TEST(AdapterFit, NamesWhatDoesNotFit) {
  const auto misfit = [](const T2IAdapterConfig& adapter) { return adapter_misfit(adapter, {}, 8); };
  EXPECT_EQ(misfit({}), "");
  EXPECT_EQ(misfit({.channels = {320, 640, 1280}}),
            "the adapter with channels [320, 640, 1280] makes 3 features, but the 4 down blocks of the unet "
            "take 4, or 5 with its middle block");
  EXPECT_EQ(misfit({.channels = {320, 320, 1280, 1280}}),
            "feature 1 of the adapter, with adapter_type \"full_adapter\", downscale_factor 8 and channels "
            "[320, 320, 1280, 1280], has 320 channels at 1/16 of the image, but CrossAttnDownBlock2D of the "
            "unet takes 640 channels at 1/16 of the image");
  EXPECT_NE(misfit({.downscale_factor = 16}).find("320 channels at 1/8"), std::string::npos);
  EXPECT_NE(adapter_misfit({}, xl_blocks(), 8).find("320 channels at 1/16"), std::string::npos);
  EXPECT_EQ(
      adapter_misfit({}, {.down_block_types = {"SimpleCrossAttnDownBlock2D"}}, 8),
      "down_block_types of the unet has SimpleCrossAttnDownBlock2D, which takes no feature of an adapter");
  // The blocks of SDXL's refiner.
  expect_throws_with<ConfigError>(
      [] {
        new_adapter_config({.down_block_types = {"DownBlock2D", "CrossAttnDownBlock2D",
                                                 "CrossAttnDownBlock2D", "DownBlock2D"},
                            .block_out_channels = {384, 768, 1536, 1536}},
                           /*is_xl=*/true, 8);
      },
      "no new T2IAdapter fits the unet: feature 3 of the adapter");
}

}  // namespace
}  // namespace diffusers
