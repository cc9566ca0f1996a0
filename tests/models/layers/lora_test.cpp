#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/gradient_checkpointing.h>
#include <diffusers/models/lora.h>
#include <diffusers/models/state_dict.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/lora_golden.h"
#include "models/lora_unet.h"
#include "support/golden.h"

namespace diffusers::test {
namespace {

class LoraGolden : public testing::TestWithParam<std::string> {};

void expect_unet_lora(const std::string& name, at::ScalarType dtype) {
  auto unet = lora_unet(dtype);
  const auto target = 0.5 * lora_pattern({2, 2, 8, 8}, dtype).square();
  expect_lora_matches_peft(
      unet, name, dtype, [&] { return lora_output(unet, dtype); }, target);
}

TEST_P(LoraGolden, ForwardBackwardAndTrainingMatchPeft) { expect_unet_lora(GetParam(), at::kFloat); }
TEST_P(LoraGolden, ForwardBackwardAndTrainingMatchPeftInFloat64) {
  expect_unet_lora(GetParam(), at::kDouble);
}

INSTANTIATE_TEST_SUITE_P(Cases, LoraGolden, testing::ValuesIn(lora_case_names(/*text=*/false)),
                         [](const auto& info) { return info.param; });

const LoraConfig kAttentionLora{.r = 2, .lora_alpha = 4, .target_modules = {"to_k", "to_out.0", "conv1"}};

TEST(Lora, NewAdapterChangesNothing) {
  auto unet = lora_unet();
  const auto plain = lora_output(unet);
  unet->add_adapter(kAttentionLora);
  EXPECT_TRUE(torch::equal(lora_output(unet), plain));
  EXPECT_EQ(unet->active_adapters(), std::vector<std::string>{"default"});
  const auto names = unet->named_parameters();
  EXPECT_TRUE(names.contains("mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight"));
  EXPECT_TRUE(names.contains("mid_block.attentions.0.transformer_blocks.0.attn1.to_k.lora_A.default.weight"));
  EXPECT_TRUE(
      names.contains("mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_B.default.weight"));
}

TEST(Lora, DisabledAdaptersGiveTheModelBitForBit) {
  auto unet = lora_unet();
  const auto plain = lora_output(unet);
  unet->add_adapter(kAttentionLora);
  move_lora(unet);
  const auto adapted = lora_output(unet);
  EXPECT_FALSE(torch::equal(adapted, plain));
  unet->disable_adapters();
  EXPECT_TRUE(torch::equal(lora_output(unet), plain));
  EXPECT_EQ(unet->num_parameters(/*only_trainable=*/true), 0);
  unet->enable_adapters();
  EXPECT_TRUE(torch::equal(lora_output(unet), adapted));
  EXPECT_GT(unet->num_parameters(/*only_trainable=*/true), 0);
  unet->set_adapters({});
  EXPECT_TRUE(torch::equal(lora_output(unet), plain));
}

TEST(Lora, UnfusingRestoresTheWeightsBitForBit) {
  for (const bool dora : {false, true}) {
    auto unet = lora_unet();
    auto config = kAttentionLora;
    config.use_dora = dora;
    unet->add_adapter(config);
    move_lora(unet);
    const auto adapted = lora_output(unet);
    std::vector<Tensor> before;
    for (const auto& parameter : unet->parameters()) before.push_back(parameter.detach().clone());
    const auto weight = unet->named_parameters()["mid_block.resnets.0.conv1.weight"];
    const auto plain = weight.detach().clone();
    unet->fuse_lora();
    expect_close(lora_output(unet), adapted, 1e-4, 1e-5, "fused");
    EXPECT_FALSE(torch::equal(weight, plain));
    unet->unfuse_lora();
    const auto after = unet->parameters();
    ASSERT_EQ(after.size(), before.size());
    for (std::size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(torch::equal(after[i], before[i])) << i;
    EXPECT_TRUE(torch::equal(lora_output(unet), adapted));
    // disable_adapters unfuses.
    unet->fuse_lora(0.5, /*safe_fusing=*/true);
    unet->disable_adapters();
    unet->enable_adapters();
    EXPECT_TRUE(torch::equal(lora_output(unet), adapted));
  }
}

TEST(Lora, SeveralAdaptersHaveWeights) {
  auto unet = lora_unet();
  const auto plain = lora_output(unet);
  unet->add_adapter(kAttentionLora, "first");
  unet->add_adapter({.r = 1, .lora_alpha = 1, .target_modules = {"to_q"}}, "second");
  move_lora(unet);
  EXPECT_EQ(unet->active_adapters(), std::vector<std::string>{"second"});
  EXPECT_EQ(unet->adapter_names(), (std::vector<std::string>{"first", "second"}));
  EXPECT_EQ(unet->peft_config("second").r, 1);
  const auto second = lora_output(unet);
  unet->set_adapters({"first", "second"}, {0.0, 1.0});
  EXPECT_TRUE(torch::equal(lora_output(unet), second));
  unet->set_adapters({"first", "second"}, {0.5, 2.0});
  const auto both = lora_output(unet);
  EXPECT_FALSE(torch::equal(both, second));
  unet->fuse_lora();
  expect_close(lora_output(unet), both, 1e-4, 1e-5, "fused");
  unet->unfuse_lora();
  unet->delete_adapter("second");
  EXPECT_EQ(unet->active_adapters(), std::vector<std::string>{"first"});
  unet->delete_adapters({"first"});
  EXPECT_TRUE(torch::equal(lora_output(unet), plain));
  EXPECT_TRUE(unet->active_adapters().empty());
  for (const auto& item : unet->named_parameters()) EXPECT_EQ(item.key().find("lora"), std::string::npos);
}

TEST(Lora, DeletingTheActiveAdapterActivatesTheFirstByName) {
  auto unet = lora_unet();
  for (const auto* name : {"b", "a", "c"}) unet->add_adapter(kAttentionLora, name);
  unet->delete_adapter("c");
  EXPECT_EQ(unet->active_adapters(), std::vector<std::string>{"a"});
  for (const auto& item : unet->named_parameters())
    EXPECT_EQ(item.value().requires_grad(), item.key().find(".a.weight") != std::string::npos) << item.key();
}

TEST(Lora, UnloadingKeepsFusedWeights) {
  auto unet = lora_unet();
  unet->add_adapter(kAttentionLora);
  move_lora(unet);
  unet->fuse_lora();
  const auto fused = lora_output(unet);
  unet->unload_lora();
  EXPECT_TRUE(unet->adapter_names().empty());
  EXPECT_TRUE(torch::equal(lora_output(unet), fused));
}

TEST(Lora, ClonesHaveTheAdapters) {
  auto unet = lora_unet();
  unet->add_adapter({.r = 2, .target_modules = {"to_k", "conv1"}, .use_dora = true}, "first");
  unet->add_adapter(kAttentionLora, "second");
  move_lora(unet);
  unet->set_adapters({"second", "first"}, {0.5, 0.25});
  unet->eval();
  UNet2DConditionModel copy(std::dynamic_pointer_cast<UNet2DConditionModelImpl>(unet->clone()));
  EXPECT_TRUE(torch::equal(lora_output(copy), lora_output(unet)));
  EXPECT_EQ(copy->active_adapters(), unet->active_adapters());
  const auto before = lora_output(unet);
  move_lora(copy, 0.1);
  EXPECT_TRUE(torch::equal(lora_output(unet), before)) << "the copy has tensors of its own";
  copy->fuse_lora();
  UNet2DConditionModel fused(std::dynamic_pointer_cast<UNet2DConditionModelImpl>(copy->clone()));
  copy->unfuse_lora();
  fused->unfuse_lora();
  EXPECT_TRUE(torch::equal(lora_output(fused), lora_output(copy)));
}

TEST(Lora, SavedModelsHaveNoAdapters) {
  auto unet = lora_unet();
  const auto plain = lora_output(unet);
  unet->add_adapter(kAttentionLora);
  move_lora(unet);
  const TemporaryFolder folder;
  unet->save_pretrained(folder.path());
  const auto loaded = UNet2DConditionModel::from_pretrained(folder.path());
  EXPECT_TRUE(loaded->load_report().unexpected_keys.empty());
  EXPECT_TRUE(torch::equal(lora_output(loaded), plain));
}

TEST(Lora, StateDictHasPeftsNames) {
  auto unet = lora_unet();
  unet->add_adapter({.r = 2, .target_modules = {"attn1.to_k"}, .use_dora = true}, "style");
  move_lora(unet);
  const auto tensors = get_peft_model_state_dict(*unet, "style");
  const std::string path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k";
  EXPECT_EQ(tensors.at(path + ".lora_A.weight").sizes(), (std::vector<int64_t>{2, 8}));
  EXPECT_EQ(tensors.at(path + ".lora_magnitude_vector").sizes(), (std::vector<int64_t>{8}));
  const auto expected = lora_output(unet);

  auto other = lora_unet();
  other->add_adapter({.r = 2, .target_modules = {"attn1.to_k"}, .use_dora = true});
  set_peft_model_state_dict(*other, tensors);
  EXPECT_TRUE(torch::equal(lora_output(other), expected));
  auto wrong = tensors;
  wrong[path + ".lora_A.weight"] = torch::zeros({3, 8});
  expect_throws_with<TensorError>([&] { set_peft_model_state_dict(*other, wrong); },
                                  path + ".lora_A.weight is [3, 8], expected [2, 8]");
  wrong = tensors;
  wrong.insert("nowhere.lora_A.weight", torch::zeros({3, 8}));
  expect_throws_with<TensorError>([&] { set_peft_model_state_dict(*other, wrong); }, "nowhere.lora_A.weight");
  expect_throws_with<ConfigError>([&] { get_peft_model_state_dict(*other, "style"); },
                                  "no adapter \"style\"");
}

TEST(Lora, GradientCheckpointingRepeatsTheDropoutOfAdapters) {
  std::vector<Tensor> gradients;
  for (const bool checkpointing : {false, true}) {
    auto unet = lora_unet();
    torch::manual_seed(1);
    unet->add_adapter({.r = 2, .lora_dropout = 0.5, .target_modules = {"to_k", "conv1"}});
    move_lora(unet);
    unet->train();
    if (checkpointing) unet->enable_gradient_checkpointing();
    torch::manual_seed(2);
    lora_output(unet).square().sum().backward();
    std::vector<Tensor> all;
    for (const auto& parameter : unet->parameters())
      if (parameter.requires_grad()) all.push_back(parameter.grad());
    gradients.push_back(lora_flat(all));
  }
  // The gradients of the time embedding are added in another order. Other dropout would change every
  // gradient.
  expect_close(gradients[1], gradients[0], 1e-5, 1e-5);
}

TEST(Lora, AdaptersFollowDtypeAndMode) {
  auto unet = lora_unet();
  unet->eval();
  unet->add_adapter({.r = 2, .lora_dropout = 0.5, .target_modules = {"to_k"}});
  move_lora(unet);
  EXPECT_TRUE(torch::equal(lora_output(unet), lora_output(unet))) << "no dropout in eval mode";
  unet->to(at::kDouble);
  EXPECT_EQ(lora_output(unet, at::kDouble).scalar_type(), at::kDouble);
  unet->add_adapter({.r = 2, .target_modules = {"to_k"}}, "second");
  EXPECT_EQ(get_peft_model_state_dict(*unet, "second").begin()->second.scalar_type(), at::kDouble);
}

TEST(Lora, OtherModelsHaveAdapters) {
  UNet2DModel unet({.sample_size = 8,
                    .down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
                    .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
                    .block_out_channels = {8, 16},
                    .layers_per_block = 1,
                    .attention_head_dim = 4,
                    .norm_num_groups = 4});
  unet->add_adapter({.r = 2, .target_modules = {"to_k", "conv_in", "linear_1"}});
  const auto sample = lora_pattern({1, 3, 8, 8}, at::kFloat);
  const auto plain = unet->forward(sample, 3).sample;
  move_lora(unet);
  EXPECT_FALSE(torch::equal(unet->forward(sample, 3).sample, plain));

  ControlNetModel control = ControlNetModel::from_unet(lora_unet());
  control->add_adapter({.r = 2, .target_modules = {"to_q"}});
  EXPECT_GT(control->num_parameters(/*only_trainable=*/true), 0);
}

void expect_lora_refused(LoraConfig config, const std::string& part) {
  auto unet = lora_unet();
  expect_throws_with<ConfigError>([&] { unet->add_adapter(config); }, part);
  EXPECT_TRUE(unet->adapter_names().empty());
  EXPECT_EQ(unet->num_parameters(true), unet->num_parameters()) << "a refused config freezes nothing";
}

TEST(Lora, ConfigsAreChecked) {
  expect_lora_refused({.r = 0, .target_modules = {"to_k"}},
                      "r of a LoRA adapter is 0, expected a positive integer");
  expect_lora_refused({.lora_alpha = std::nan(""), .target_modules = {"to_k"}}, "lora_alpha is nan");
  expect_lora_refused({.lora_dropout = 1.5, .target_modules = {"to_k"}}, "lora_dropout is 1.5");
  expect_lora_refused({.init_lora_weights = "pissa", .target_modules = {"to_k"}},
                      "init_lora_weights is \"pissa\", expected one of");
  expect_lora_refused({}, "target_modules of a LoRA adapter is empty");
  expect_lora_refused({.target_modules = {"nothing"}},
                      "target_modules [\"nothing\"]: no layer of UNet2DConditionModel");
  expect_lora_refused({.target_modules = {"nothing"}}, "to_k, to_out.0");
  expect_lora_refused({.target_modules = "all-linear"}, "all-linear");
  expect_lora_refused({.target_modules = "to_[k"}, "not a regular expression");
  expect_lora_refused({.target_modules = {"attn1"}}, "only linear layers and convolutions");
  expect_lora_refused({.target_modules = {"norm1"}}, "only linear layers and convolutions");
  expect_lora_refused({.target_modules = {"to_k"}, .rank_pattern = {{"to_k", 0}}},
                      "rank_pattern \"to_k\" is 0");
  expect_lora_refused({.target_modules = {"to_k"}, .bias = "all"}, "only \"none\" is supported");
}

TEST(Lora, CallsAreChecked) {
  auto unet = lora_unet();
  expect_throws_with<ConfigError>([&] { unet->set_adapters({"default"}); }, "call add_adapter first");
  expect_throws_with<ConfigError>([&] { unet->disable_adapters(); }, "call add_adapter first");
  expect_throws_with<ConfigError>([&] { unet->fuse_lora(); }, "call add_adapter first");
  expect_throws_with<ConfigError>([&] { unet->unfuse_lora(); }, "no adapter is fused");
  expect_throws_with<ConfigError>([&] { unet->add_adapter(kAttentionLora, "a.b"); }, "without a dot");
  unet->add_adapter(kAttentionLora);
  expect_throws_with<ConfigError>([&] { unet->add_adapter(kAttentionLora); },
                                  "already has an adapter \"default\"");
  expect_throws_with<ConfigError>([&] { unet->set_adapters({"other"}); },
                                  "there is no adapter \"other\"; adapters: [\"default\"]");
  expect_throws_with<ConfigError>(
      [&] {
        unet->set_adapters({"default"}, {1.0, 2.0});
      },
      "1 names and 2 weights");
  expect_throws_with<ConfigError>([&] { unet->set_adapters({"default", "default"}); }, "given twice");
  expect_throws_with<ConfigError>([&] { unet->delete_adapter("other"); }, "there is no adapter \"other\"");
  expect_throws_with<ConfigError>([&] { unet->peft_config("other"); }, "there is no adapter \"other\"");
  unet->disable_adapters();
  expect_throws_with<ConfigError>([&] { unet->fuse_lora(); }, "call enable_adapters first");
  unet->enable_adapters();
  unet->fuse_lora();
  for (const auto& call : std::vector<std::function<void()>>{
           [&] { unet->fuse_lora(); }, [&] { unet->set_adapters({"default"}); },
           [&] { unet->delete_adapter("default"); }, [&] { unet->add_adapter(kAttentionLora, "other"); }})
    expect_throws_with<ConfigError>(call, "are fused, call unfuse_lora first");
}

TEST(Lora, SafeFusingRefusesNonFiniteWeights) {
  auto unet = lora_unet();
  unet->add_adapter(kAttentionLora);
  const auto before = lora_output(unet);
  {
    const torch::NoGradGuard no_grad;
    unet->named_parameters()["mid_block.resnets.0.conv1.lora_B.default.weight"].fill_(
        std::numeric_limits<double>::infinity());
  }
  const auto weight = unet->named_parameters()["mid_block.resnets.0.conv1.weight"];
  const auto copy = weight.detach().clone();
  expect_throws_with<TensorError>([&] { unet->fuse_lora(1.0, /*safe_fusing=*/true); },
                                  "mid_block.resnets.0.conv1 would not be finite");
  EXPECT_TRUE(torch::equal(weight, copy));
}

}  // namespace
}  // namespace diffusers::test
