#include <set>
#include <string>
#include <vector>

#include <diffusers/models/autoencoder_tiny.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/models/vq_model.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/training/parameter_groups.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/normalization.h>

#include "support/golden.h"
#include "training/tiny_model.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;

/// A nested module with linear layers, a norm and an embedding.
struct NestedNetImpl : torch::nn::Module {
  NestedNetImpl() {
    tokens = register_module("tokens", torch::nn::Embedding(5, 4));
    down = register_module("down", test::TinyNet());
    norm = register_module("norm", torch::nn::GroupNorm(torch::nn::GroupNormOptions(2, 4)));
    scale = register_parameter("scale", at::ones({}));
    bias = register_parameter("bias", at::ones({1, 4, 1}));
  }
  torch::nn::Embedding tokens{nullptr};
  test::TinyNet down{nullptr};
  torch::nn::GroupNorm norm{nullptr};
  Tensor scale, bias;
};
TORCH_MODULE(NestedNet);

std::vector<std::string> trained_names(const torch::nn::Module& module) {
  std::vector<std::string> names;
  for (const auto& parameter : module.named_parameters())
    if (parameter.value().requires_grad()) names.push_back(parameter.key());
  return names;
}

TEST(MatchesPattern, TakesStarsAndQuestionMarks) {
  const auto fits = [](const char* pattern, const char* name) { return matches_pattern(name, pattern); };
  EXPECT_TRUE(fits("down_blocks.*.attentions.*", "down_blocks.1.attentions.0.proj_in.weight"));
  EXPECT_FALSE(fits("down_blocks.*.attentions.*", "up_blocks.1.attentions.0.proj_in.weight"));
  EXPECT_FALSE(fits("down_blocks.*.attentions", "down_blocks.1.attentions.0"));
  EXPECT_TRUE(fits("*.bias", "conv_in.bias"));
  EXPECT_FALSE(fits("*.bias", "bias"));
  EXPECT_TRUE(fits("*", ""));
  EXPECT_TRUE(fits("a?c", "a.c"));
  EXPECT_FALSE(fits("a?c", "ac"));
  EXPECT_FALSE(fits("conv", "conv_in"));
  EXPECT_TRUE(fits("*aab*", "aaaab"));
  EXPECT_TRUE(fits("**b", "ab"));
  EXPECT_FALSE(fits("", "a"));
  EXPECT_FALSE(fits("a", ""));
  // A matcher with backtracking would need exponential time for this pattern.
  EXPECT_FALSE(fits("*a*a*a*a*a*a*a*a*a*a*b", std::string(200, 'a').c_str()));
}

TEST(NoDecay, IsForBiasesNormsAndEmbeddings) {
  const NestedNet net;
  EXPECT_EQ(no_decay_names(*net),
            (std::vector<std::string>{"scale", "bias", "tokens.weight", "down.conv_in.bias", "down.time.bias",
                                      "down.conv_out.bias", "norm.weight", "norm.bias"}));
  // Every name in the groups is the name of a parameter.
  for (const std::string& name : no_decay_names(*net)) EXPECT_TRUE(net->named_parameters().contains(name));
}

/// Checks the weight decay of every parameter of a library model. Weights of linear layers and convolutions
/// decay; all other parameters do not.
void expect_only_products_decay(const torch::nn::Module& model, const std::string& label) {
  const std::vector<std::string> names = no_decay_names(model);
  const std::set<std::string> without_decay(names.begin(), names.end());
  std::size_t seen = 0;
  for (const auto& module : model.named_modules("", /*include_self=*/true)) {
    const bool multiplies = module.value()->as<layers::LinearImpl>() != nullptr ||
                            module.value()->as<layers::Conv2dImpl>() != nullptr ||
                            module.value()->as<torch::nn::LinearImpl>() != nullptr;
    for (const auto& parameter : module.value()->named_parameters(/*recurse=*/false)) {
      const std::string name = module.key().empty() ? parameter.key() : module.key() + "." + parameter.key();
      EXPECT_EQ(without_decay.contains(name), !(multiplies && parameter.key() == "weight"))
          << label << ": " << name << " " << describe(parameter.value());
      ++seen;
    }
  }
  EXPECT_EQ(seen, model.named_parameters().size()) << label;
}

TEST(NoDecay, CoversEveryLayerOfTheLibrary) {
  const std::vector<std::string> down{"DownBlock2D", "AttnDownBlock2D"};
  const std::vector<std::string> up{"AttnUpBlock2D", "UpBlock2D"};
  UNet2DModel classes({.sample_size = 8,
                       .down_block_types = down,
                       .up_block_types = up,
                       .block_out_channels = {8, 8},
                       .layers_per_block = 1,
                       .attention_head_dim = 4,
                       .norm_num_groups = 2,
                       .num_class_embeds = 5});
  EXPECT_TRUE(classes->named_parameters().contains("class_embedding.weight"));
  expect_only_products_decay(*classes, "UNet2DModel with classes");
  expect_only_products_decay(*UNet2DModel({.sample_size = 8,
                                           .time_embedding_type = "learned",
                                           .down_block_types = down,
                                           .up_block_types = up,
                                           .block_out_channels = {8, 8},
                                           .layers_per_block = 1,
                                           .attention_head_dim = 4,
                                           .norm_num_groups = 2,
                                           .num_train_timesteps = 20}),
                             "UNet2DModel with learned timesteps");
  UNet2DConditionModel pooled({.sample_size = 8,
                               .down_block_types = {"CrossAttnDownBlock2D", "DownBlock2D"},
                               .up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D"},
                               .block_out_channels = {8, 8},
                               .layers_per_block = 1,
                               .norm_num_groups = 2,
                               .cross_attention_dim = 8,
                               .attention_head_dim = 2,
                               .addition_embed_type = "text",
                               .addition_embed_type_num_heads = 2});
  EXPECT_TRUE(pooled->named_parameters().contains("add_embedding.pool.positional_embedding"));
  expect_only_products_decay(*pooled, "UNet2DConditionModel with text pooling");
  CLIPTextModel text({.vocab_size = 20,
                      .hidden_size = 8,
                      .intermediate_size = 8,
                      .num_hidden_layers = 1,
                      .num_attention_heads = 2,
                      .max_position_embeddings = 7});
  expect_only_products_decay(*text, "CLIPTextModel");
  expect_only_products_decay(*AutoencoderTiny(), "AutoencoderTiny");
  expect_only_products_decay(
      *VQModel({.block_out_channels = {8}, .num_vq_embeddings = 6, .norm_num_groups = 2}), "VQModel");
}

TEST(MakeParameterGroups, LetsLaterRulesOverrideEachOption) {
  NestedNet net;
  freeze_parameters(*net, {"down.time.*"});
  const std::vector<ParameterGroup> groups = make_parameter_groups(
      net->named_parameters(), {{.patterns = {"down.*"}, .lr_factor = 0.1, .weight_decay = 0.5},
                                {.patterns = {"*.conv_out.*"}, .lr = 3e-3},
                                no_decay_rule(*net)});
  std::vector<std::string> seen;
  for (const ParameterGroup& group : groups) {
    ASSERT_EQ(group.names.size(), group.params.size());
    for (std::size_t i = 0; i < group.names.size(); ++i) {
      const std::string& name = group.names[i];
      seen.push_back(name);
      EXPECT_TRUE(group.params[i].is_same(net->named_parameters()[name]));
      const bool is_down = name.starts_with("down.");
      EXPECT_EQ(group.lr_factor, is_down ? 0.1 : 1.0) << name;
      EXPECT_EQ(group.lr.value_or(0), name.starts_with("down.conv_out") ? 3e-3 : 0) << name;
      // All parameters outside "down" are biases, norms or embeddings.
      EXPECT_EQ(group.weight_decay.value_or(-1), name.ends_with(".weight") && is_down ? 0.5 : 0.0) << name;
    }
  }
  EXPECT_EQ(seen.size(), trained_names(*net).size());
  EXPECT_EQ(groups.size(), 5U);
  const Optimizer optimizer(groups, {.lr = 1e-2});
  for (std::size_t i = 0; i < groups.size(); ++i)
    EXPECT_DOUBLE_EQ(optimizer.lr(i), groups[i].lr.value_or(1e-2) * groups[i].lr_factor);
}

TEST(MakeParameterGroups, KeepsMomentsWithTheirParametersWhenRulesChange) {
  NestedNet net;
  for (const auto& parameter : net->named_parameters()) {
    parameter.value().mutable_grad() =
        at::full_like(parameter.value(), static_cast<double>(parameter.key().size()));
  }
  Optimizer before(make_parameter_groups(net->named_parameters(), {}));
  before.step();
  Optimizer after(make_parameter_groups(net->named_parameters(), {no_decay_rule(*net)}));
  after.load_state_dict(before.state_dict());
  for (const auto& [name, tensor] : before.state_dict())
    expect_equal(after.state_dict().at(name), tensor, name);
  EXPECT_NEAR(after.state_dict().at("norm.bias.exp_avg")[0].item<double>(), 0.1 * 9, 1e-6);
}

TEST(FreezeParameters, StopsAndLetsPass) {
  NestedNet net;
  EXPECT_EQ(train_only(*net, {"down.conv*", "scale"}), 5);
  EXPECT_EQ(trained_names(*net),
            (std::vector<std::string>{"scale", "down.conv_in.weight", "down.conv_in.bias",
                                      "down.conv_out.weight", "down.conv_out.bias"}));
  EXPECT_EQ(freeze_parameters(*net, {"*.bias"}), 4);
  EXPECT_EQ(trained_names(*net),
            (std::vector<std::string>{"scale", "down.conv_in.weight", "down.conv_out.weight"}));
}

TEST(FreezeParameters, NamesAPatternThatFitsNothing) {
  NestedNet net;
  const auto all = trained_names(*net);
  expect_throws_with<ConfigError>([&] { freeze_parameters(*net, {"down.*", "up.*"}); }, "\"up.*\"");
  expect_throws_with<ConfigError>([&] { train_only(*net, {"down.*", "mid"}); }, "\"mid\"");
  expect_throws_with<ConfigError>([&] { train_only(*net, {}); }, "no patterns");
  expect_throws_with<ConfigError>(
      [&] { make_parameter_groups(net->named_parameters(), {{.patterns = {"*.bais"}}}); }, "\"*.bais\"");
  // The failed calls have changed nothing.
  EXPECT_EQ(trained_names(*net), all);
  freeze_parameters(*net, {"*"});
  expect_throws_with<ConfigError>([&] { make_parameter_groups(net->named_parameters(), {}); },
                                  "requires a gradient");
}

}  // namespace
}  // namespace diffusers
