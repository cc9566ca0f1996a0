// The files of cloneofsimo's lora_diffusion.

#include "models/layers/lora_indexed_keys.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <diffusers/io/safetensors.h>
#include <diffusers/models/lora_weights.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/lora_unet.h"
#include "support/golden.h"

namespace diffusers::test {
namespace {

const std::vector<std::string> kAttention{"to_q", "to_k", "to_v", "to_out.0"};

UNet2DConditionModel adapted(const std::vector<std::string>& targets) {
  auto unet = lora_unet();
  unet->add_adapter({.r = 2, .lora_alpha = 2, .target_modules = targets});
  move_lora(unet);
  unet->eval();
  return unet;
}

/// Writes an adapter with numbers in the order of `layers`, as lora_diffusion's `save_safeloras` does.
void save_indexed(const UNet2DConditionModel& unet, const std::vector<std::string>& layers,
                  const std::string& path, const std::map<std::string, std::string>& metadata) {
  const TensorMap adapter = get_peft_model_state_dict(*unet);
  TensorMap tensors;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::string name = "unet:" + std::to_string(i);
    tensors.insert(name + ":up", adapter.at(layers[i] + ".lora_B.weight"));
    tensors.insert(name + ":down", adapter.at(layers[i] + ".lora_A.weight"));
  }
  save_safetensors(tensors, path, metadata);
}

/// The layers of Python's UNet in the order of its modules: `down_blocks`, `up_blocks`, `mid_block`.
/// @param words the modules of a transformer block in their order
std::vector<std::string> ordered_layers(const UNet2DConditionModel& unet,
                                        const std::vector<std::vector<std::string>>& words) {
  const TensorMap adapter = get_peft_model_state_dict(*unet);
  std::vector<std::string> layers;
  for (const char* part : {"down_blocks", "up_blocks", "mid_block"}) {
    std::vector<std::string> blocks;
    for (const auto& [name, tensor] : adapter) {
      const auto end = name.find(".transformer_blocks.");
      if (!name.starts_with(part) || end == std::string::npos) continue;
      const std::string block = name.substr(0, name.find('.', end + 20));
      if (std::find(blocks.begin(), blocks.end(), block) == blocks.end()) blocks.push_back(block);
    }
    std::sort(blocks.begin(), blocks.end());
    for (const auto& block : blocks)
      for (const auto& group : words)
        for (const auto& word : group)
          if (adapter.contains(block + "." + word + ".lora_A.weight")) layers.push_back(block + "." + word);
  }
  return layers;
}

std::vector<std::string> attention(const std::string& name) {
  std::vector<std::string> words;
  for (const auto& word : kAttention) words.push_back(name + "." + word);
  return words;
}

TEST(LoraIndexedKeys, NumbersAreThoseOfThePythonModules) {
  const TemporaryFolder folder;
  const std::string path = folder / "lora.safetensors";
  const auto expect_loads = [&](const UNet2DConditionModel& unet) {
    auto other = lora_unet();
    other->eval();
    load_lora_weights(path, {.unet = other});
    EXPECT_TRUE(torch::equal(lora_output(other), lora_output(unet)));
  };
  const auto unet = adapted(kAttention);
  save_indexed(unet, ordered_layers(unet, {attention("attn1"), attention("attn2")}), path,
               {{"unet", R"(["CrossAttention"])"}, {"unet:0:rank", "2"}});
  expect_loads(unet);

  auto targets = kAttention;
  targets.push_back("ff.net.0.proj");
  const auto with_geglu = adapted(targets);
  for (const bool is_old : {false, true}) {
    std::vector<std::vector<std::string>> words{attention("attn1"), attention("attn2")};
    words.insert(words.begin() + (is_old ? 1 : 2), {"ff.net.0.proj"});
    // Without metadata: the default of lora_diffusion.
    save_indexed(with_geglu, ordered_layers(with_geglu, words), path, {});
    expect_loads(with_geglu);
  }
}

TEST(LoraIndexedKeys, FilesThatDoNotFitAreRefused) {
  const TemporaryFolder folder;
  const std::string path = folder / "lora.safetensors";
  const auto unet = adapted(kAttention);
  const auto layers = ordered_layers(unet, {attention("attn1"), attention("attn2")});
  const std::map<std::string, std::string> metadata{{"unet", R"(["CrossAttention"])"}};
  const auto expect_refused = [&](const std::string& name, const Tensor& tensor, const std::string& text,
                                  const std::string& part) {
    save_indexed(unet, layers, path, {{"unet", text}});
    TensorMap tensors = load_safetensors(path);
    if (tensor.defined()) tensors[name] = tensor;
    if (!tensor.defined() && !name.empty()) tensors.erase(name);
    save_safetensors(tensors, path, {{"unet", text}});
    auto other = lora_unet();
    expect_throws_with<FileError>([&] { load_lora_weights(path, {.unet = other}); }, part);
    EXPECT_TRUE(other->adapter_names().empty());
  };
  const std::string classes = R"(["CrossAttention"])";
  expect_refused("<s1>", torch::zeros({6}), classes,
                 "a learned embedding, which load_textual_inversion reads");
  expect_refused("other", torch::zeros({6}), classes, "other is no layer of a LoRA");
  expect_refused("unet:0:up", {}, classes, "unet:0 has no up");
  expect_refused("unet:0:up", torch::zeros({3, 2}), classes, "unet:0:down and up have shapes");
  expect_refused("unet:99:up", torch::zeros({3, 2}), classes, "unet:99 has no down");
  expect_refused("text_encoder:0:up", torch::zeros({3, 2}), classes,
                 "layers of text_encoder, which there is no model for");
  expect_refused("", {}, R"(["CrossAttention", "GEGLU"])", "layers of unet, numbered up to");
  expect_refused("", {}, R"(["Transformer2DModel"])", "the class Transformer2DModel are adapted");
  expect_refused("", {}, "{}", "expected a list of classes");
}

}  // namespace
}  // namespace diffusers::test
