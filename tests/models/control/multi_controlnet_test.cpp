#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/models/multi_controlnet.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/model_golden.h"

namespace diffusers::test {
namespace {

ControlNetModel small_controlnet(std::vector<int64_t> channels = {4, 8}) {
  ControlNetModel net({.down_block_types = {"DownBlock2D", "CrossAttnDownBlock2D"},
                       .block_out_channels = std::move(channels),
                       .layers_per_block = 1,
                       .norm_num_groups = 2,
                       .cross_attention_dim = 8,
                       .attention_head_dim = 2,
                       .conditioning_embedding_out_channels = {4, 4}});
  perturb(net);
  net->eval();
  return net;
}

struct ControlInputs {
  Tensor sample = torch::randn({2, 4, 8, 8});
  Tensor timesteps = torch::tensor({3, 500}, torch::kLong);
  Tensor states = torch::randn({2, 5, 8});
  std::vector<Tensor> images = {torch::rand({2, 3, 16, 16}), torch::rand({2, 3, 16, 16})};
};

TEST(MultiControlNetModel, AddsTheResidualsOfItsNets) {
  const torch::NoGradGuard no_grad;
  const ControlNetModel first = small_controlnet();
  const ControlNetModel second = small_controlnet();
  const MultiControlNetModel both({first, second});
  const ControlInputs in;
  const auto sum = both->forward(in.sample, in.timesteps, in.states, in.images, {0.5, 2.0});
  const auto a =
      first->forward(in.sample, in.timesteps, in.states, in.images[0], {.conditioning_scale = 0.5});
  const auto b =
      second->forward(in.sample, in.timesteps, in.states, in.images[1], {.conditioning_scale = 2.0});
  ASSERT_EQ(sum.down_block_res_samples.size(), a.down_block_res_samples.size());
  for (std::size_t i = 0; i < a.down_block_res_samples.size(); ++i)
    expect_equal(sum.down_block_res_samples[i], a.down_block_res_samples[i] + b.down_block_res_samples[i]);
  expect_equal(sum.mid_block_res_sample, a.mid_block_res_sample + b.mid_block_res_sample);

  const auto one = both->forward(in.sample, in.timesteps, in.states, in.images, {0.0, 2.0});
  expect_equal(one.mid_block_res_sample, b.mid_block_res_sample);
  const auto none = both->forward(in.sample, in.timesteps, in.states, in.images, {0.0, 0.0});
  EXPECT_TRUE(none.down_block_res_samples.empty());
  EXPECT_FALSE(none.mid_block_res_sample.defined());
}

TEST(MultiControlNetModel, SurvivesSavingAndLoading) {
  const torch::NoGradGuard no_grad;
  const MultiControlNetModel both({small_controlnet(), small_controlnet()});
  EXPECT_EQ(both->class_name(), "MultiControlNetModel");
  const TemporaryFolder folder;
  both->save_pretrained(folder / "controlnet");
  EXPECT_TRUE(folder_exists(folder / "controlnet_1"));
  const ControlInputs in;
  const Tensor expected =
      both->forward(in.sample, in.timesteps, in.states, in.images, {1.0, 1.0}).mid_block_res_sample;
  const auto again = MultiControlNetModel::from_pretrained(folder / "controlnet");
  const auto from_parent = MultiControlNetModel::from_pretrained(folder.path(), {.subfolder = "controlnet"});
  for (const auto& model : {again, from_parent}) {
    EXPECT_EQ(model->nets().size(), 2U);
    expect_equal(
        model->forward(in.sample, in.timesteps, in.states, in.images, {1.0, 1.0}).mid_block_res_sample,
        expected);
  }
}

TEST(MultiControlNetModel, NetsThatDoNotFitAreRefused) {
  expect_throws_with<ConfigError>([] { MultiControlNetModel(std::vector<ControlNetModel>()); },
                                  "nets is empty");
  expect_throws_with<ConfigError>(
      [] {
        MultiControlNetModel({small_controlnet(), nullptr});
      },
      "nets[1] is empty");
  const MultiControlNetModel both({small_controlnet(), small_controlnet({4, 4})});
  const ControlInputs in;
  expect_throws_with<TensorError>(
      [&] {
        both->forward(in.sample, in.timesteps, in.states, {in.images[0]}, {1.0, 1.0});
      },
      "1 images and 2 scales for 2 nets");
  expect_throws_with<TensorError>(
      [&] {
        both->forward(in.sample, in.timesteps, in.states, in.images, {1.0, 1.0});
      },
      "a residual of nets[1] is");
}

}  // namespace
}  // namespace diffusers::test
