#include "models/module_modes.h"

#include <vector>

#include <diffusers/models/unet_2d.h>

#include <gtest/gtest.h>

namespace diffusers {
namespace {

UNet2DModel modes_unet() {
  return UNet2DModel({.sample_size = 8,
                      .in_channels = 1,
                      .out_channels = 1,
                      .down_block_types = {"DownBlock2D"},
                      .up_block_types = {"UpBlock2D"},
                      .block_out_channels = {8},
                      .layers_per_block = 1,
                      .norm_num_groups = 2});
}

std::vector<bool> modes_of(const torch::nn::Module& model) {
  std::vector<bool> modes;
  for (const auto& module : model.modules()) modes.push_back(module->is_training());
  return modes;
}

TEST(EvalGuard, GivesEachModuleItsModeBack) {
  UNet2DModel unet = modes_unet();
  unet->train();
  // A frozen part of a model in training stays frozen.
  unet->children().front()->eval();
  unet->modules().back()->eval();
  const std::vector<bool> before = modes_of(*unet);
  {
    const EvalGuard guard(*unet);
    EXPECT_EQ(modes_of(*unet), std::vector<bool>(before.size(), false));
  }
  EXPECT_EQ(modes_of(*unet), before);
}

TEST(ModuleModes, AreThoseOfTheMomentAtWhichTheyWereTaken) {
  UNet2DModel unet = modes_unet();
  unet->train();
  unet->modules().back()->eval();
  const std::vector<bool> before = modes_of(*unet);
  const ModuleModes modes(*unet);
  unet->eval();
  modes.restore();
  EXPECT_EQ(modes_of(*unet), before);
  modes.restore();
  EXPECT_EQ(modes_of(*unet), before);
}

}  // namespace
}  // namespace diffusers
