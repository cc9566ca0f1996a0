// Adapters in the layouts of diffusers, PEFT and kohya-ss, and conversions between them.

#include "models/layers/lora_formats.h"

#include <map>
#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/models/lora_weights.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "core/json.h"
#include "models/lora_unet.h"
#include "support/golden.h"

namespace diffusers::test {
namespace {

constexpr const char* kDefaultName = "pytorch_lora_weights.safetensors";

/// An adapter with other ranks and alphas for some layers, convolutions included.
UNet2DConditionModel unet_with_patterns(bool use_rslora = false, bool use_dora = false) {
  auto unet = lora_unet();
  unet->add_adapter({.r = 2,
                     .lora_alpha = 3,
                     .target_modules = {"to_k", "to_out.0", "conv1", "proj_in"},
                     .use_rslora = use_rslora,
                     .use_dora = use_dora,
                     .rank_pattern = {{"to_k", 1}},
                     .alpha_pattern = {{"conv1", 0.5}}});
  move_lora(unet);
  unet->eval();
  return unet;
}

Tensor output_with(const std::string& path) {
  auto unet = lora_unet();
  unet->eval();
  load_lora_weights(path, {.unet = unet});
  return lora_output(unet);
}

void expect_same_tensors(const std::string& file, const std::string& other) {
  const TensorMap expected = load_safetensors(other), found = load_safetensors(file);
  EXPECT_EQ(found.size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    ASSERT_TRUE(found.contains(name)) << name;
    EXPECT_EQ(found.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(torch::equal(found.at(name), tensor)) << name;
  }
}

TEST(LoraFormats, EveryFormatGivesTheSameOutput) {
  for (const bool use_rslora : {false, true}) {
    const TemporaryFolder folder;
    const auto unet = unet_with_patterns(use_rslora);
    save_lora_weights(folder / "diffusers", {.unet = unet});
    save_lora_weights(folder / "kohya", {.unet = unet, .format = LoraFormat::kKohya});
    save_lora_weights(folder / "peft", {.unet = unet, .format = "peft"});
    EXPECT_TRUE(torch::equal(output_with(folder / "diffusers"), lora_output(unet)));
    EXPECT_TRUE(torch::equal(output_with(folder / "peft/unet"), lora_output(unet)));
    // The scale of rsLoRA is alpha / sqrt(r), which kohya-ss has as another alpha.
    expect_close(output_with(folder / "kohya"), lora_output(unet), 0, use_rslora ? 1e-6 : 0, "kohya");
  }
}

TEST(LoraFormats, ConversionsAndBackKeepEveryTensor) {
  const TemporaryFolder folder;
  const auto unet = unet_with_patterns();
  const LoraModules modules{.unet = lora_unet()};
  save_lora_weights(folder / "diffusers", {.unet = unet});
  // In bfloat16, which a model in float32 would convert.
  TensorMap half;
  const std::string first = folder / "diffusers/pytorch_lora_weights.safetensors";
  for (const auto& [name, tensor] : load_safetensors(first)) half.insert(name, tensor.to(at::kBFloat16));
  save_safetensors(half, first, SafetensorsFile(first).metadata());

  convert_lora_weights(folder / "diffusers", folder / "kohya", modules,
                       {.format = LoraFormat::kKohya, .output_name = "style.safetensors"});
  convert_lora_weights(folder / "kohya", folder / "peft", modules, {.format = LoraFormat::kPeft});
  convert_lora_weights(folder / "peft/unet", folder / "again", modules);
  convert_lora_weights(folder / "again", folder / "kohya_again", modules,
                       {.format = "kohya", .output_name = "style.safetensors"});
  expect_same_tensors(folder / "again/pytorch_lora_weights.safetensors", first);
  expect_same_tensors(folder / "kohya_again/style.safetensors", folder / "kohya/style.safetensors");
  EXPECT_TRUE(torch::equal(output_with(folder / "again"), output_with(folder / "diffusers")));
  UNet2DConditionModel plain = lora_unet();
  EXPECT_TRUE(plain->adapter_names().empty());
}

TEST(LoraFormats, FilesHaveTheNamesOfTheirTools) {
  const TemporaryFolder folder;
  const auto unet = unet_with_patterns();
  save_lora_weights(folder.path(), {.unet = unet, .weight_name = "k.safetensors", .format = "kohya"});
  const TensorMap kohya = load_safetensors(folder / "k.safetensors");
  const std::string layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k";
  EXPECT_TRUE(kohya.contains(layer + ".lora_down.weight"));
  EXPECT_TRUE(kohya.contains(layer + ".lora_up.weight"));
  EXPECT_EQ(kohya.at(layer + ".alpha").item<double>(), 3);
  EXPECT_EQ(kohya.at("lora_unet_mid_block_resnets_0_conv1.alpha").item<double>(), 0.5);

  save_lora_weights(folder / "peft", {.unet = unet, .format = "peft"});
  EXPECT_TRUE(load_safetensors(folder / "peft/unet/adapter_model.safetensors")
                  .contains("base_model.model.mid_block.resnets.0.conv1.lora_A.weight"));
  const auto config = parse_json(read_text_file(folder / "peft/unet/adapter_config.json"), "config");
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["r"], 2);
  EXPECT_EQ(config["alpha_pattern"]["conv1"], 0.5);
  EXPECT_FALSE(file_exists(folder / "peft" + "/" + kDefaultName));
}

TEST(LoraFormats, WhatALayoutCannotHoldIsRefused) {
  const TemporaryFolder folder;
  const auto dora = unet_with_patterns(false, true);
  expect_throws_with<ConfigError>(
      [&] { save_lora_weights(folder.path(), {.unet = dora, .format = "kohya"}); },
      "unet has a DoRA adapter, which the layout of kohya-ss cannot hold");
  save_lora_weights(folder / "peft", {.unet = dora, .format = "peft"});
  EXPECT_TRUE(torch::equal(output_with(folder / "peft/unet"), lora_output(dora)));
  expect_throws_with<ConfigError>([&] { save_lora_weights(folder.path(), {.unet = dora, .format = "zip"}); },
                                  "format is \"zip\", expected one of: \"diffusers\" \"peft\" \"kohya\"");
  expect_throws_with<FileError>(
      [&] { convert_lora_weights(folder / "none", folder / "out", {.unet = dora}); }, "no such file");
  expect_throws_with<Error>(
      [&] {
        convert_lora_weights(folder / "peft/unet", folder / "out", {.unet = dora}, {.output_name = "a/b"});
      },
      "output_name");
  EXPECT_FALSE(folder_exists(folder / "out"));
  const std::string config = folder / "peft/unet/adapter_config.json";
  write_file("{\"peft_type\": \"LOHA\"}", config);
  expect_throws_with<ConfigError>([&] { output_with(folder / "peft/unet"); }, "LOHA");
  write_file("[]", config);
  expect_throws_with<FileError>([&] { output_with(folder / "peft/unet"); }, "expected an object");
}

}  // namespace
}  // namespace diffusers::test
