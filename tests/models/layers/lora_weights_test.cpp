#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/io/files.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/models/lora.h>
#include <diffusers/models/lora_weights.h>
#include <diffusers/models/unet_2d_condition.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "core/json.h"
#include "models/lora_unet.h"
#include "support/golden.h"

namespace diffusers::test {
namespace {

const std::vector<std::string> kFileTargets{"to_k",
                                            "to_out.0",
                                            "conv1",
                                            "conv_in",
                                            "linear_1",
                                            "conv_shortcut",
                                            "time_emb_proj",
                                            "downsamplers.0.conv",
                                            "proj_in",
                                            "ff.net.0.proj",
                                            "upsamplers.0.conv"};
const std::string kPath = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k";

/// A UNet with an adapter that changes its output.
UNet2DConditionModel unet_with_lora(LoraConfig config = {
                                        .r = 2, .lora_alpha = 3, .target_modules = kFileTargets}) {
  auto unet = lora_unet();
  unet->add_adapter(config);
  move_lora(unet);
  return unet;
}

/// Renames the tensors of a saved file and writes it without its metadata.
void rename_lora(const std::string& from, const std::string& to,
                 const std::function<std::string(const std::string& layer, const std::string& kind)>& name,
                 std::optional<double> alpha) {
  TensorMap tensors;
  for (const auto& [key, tensor] : load_safetensors(from)) {
    const bool is_a = key.ends_with(".lora_A.weight");
    auto layer = key.substr(sizeof("unet.") - 1);
    layer.resize(layer.size() - (sizeof(".lora_A.weight") - 1));
    tensors.insert(name(layer, is_a ? "down" : "up"), tensor);
    if (alpha && is_a) tensors.insert(name(layer, "alpha"), torch::tensor(*alpha));
  }
  save_safetensors(tensors, to);
}

std::string flat_name(std::string layer) {
  std::replace(layer.begin(), layer.end(), '.', '_');
  return layer;
}

TEST(LoraWeights, SavedAdaptersAreLoadedBitForBit) {
  const TemporaryFolder folder;
  for (const bool dora : {false, true}) {
    auto unet = unet_with_lora({.r = 2,
                                .lora_alpha = 3,
                                .lora_dropout = 0.25,
                                .init_lora_weights = "gaussian",
                                .target_modules = kFileTargets,
                                .use_rslora = true,
                                .use_dora = dora,
                                .rank_pattern = {{"to_k", 1}},
                                .alpha_pattern = {{"conv1", 1.5}}});
    unet->eval();
    save_lora_weights(folder.path(), {.unet = unet});
    auto other = lora_unet();
    other->eval();
    torch::manual_seed(3);
    EXPECT_EQ(load_lora_weights(folder.path(), {.unet = other}), "default_0");
    const auto drawn = torch::rand({2});
    torch::manual_seed(3);
    EXPECT_TRUE(torch::equal(torch::rand({2}), drawn)) << "loading draws no numbers";
    EXPECT_TRUE(torch::equal(lora_output(other), lora_output(unet)));
    EXPECT_EQ(other->active_adapters(), std::vector<std::string>{"default_0"});
    const auto config = other->peft_config("default_0");
    EXPECT_EQ(config.r, 2);
    EXPECT_EQ(config.lora_alpha, 3);
    EXPECT_EQ(config.lora_dropout, 0.25);
    EXPECT_EQ(config.init_lora_weights, "gaussian");
    EXPECT_EQ(config.target_modules.values(), kFileTargets);
    EXPECT_TRUE(config.use_rslora);
    EXPECT_EQ(config.rank_pattern.at(0), (std::pair<std::string, int64_t>("to_k", 1)));
    EXPECT_EQ(config.alpha_pattern.at(0).second, 1.5);
    EXPECT_EQ(load_lora_weights(folder.path(), {.unet = other}), "default_1");
    EXPECT_EQ(load_lora_weights(folder / "pytorch_lora_weights.safetensors", {.unet = other},
                                {.adapter_name = "style"}),
              "style");
  }
}

TEST(LoraWeights, FilesHavePeftsNamesAndMetadata) {
  const TemporaryFolder folder;
  auto unet = unet_with_lora();
  save_lora_weights(folder.path(), {.unet = unet, .weight_name = "mine.safetensors"});
  const SafetensorsFile file(folder / "mine.safetensors");
  EXPECT_TRUE(file.contains("unet." + kPath + ".lora_A.weight"));
  EXPECT_TRUE(file.contains("unet." + kPath + ".lora_B.weight"));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const auto metadata = parse_json(file.metadata().at("lora_adapter_metadata"), "metadata");
  EXPECT_EQ(metadata["unet.r"], 2);
  EXPECT_EQ(metadata["unet.lora_alpha"], 3);
  EXPECT_EQ(metadata["unet.init_lora_weights"], true);
  EXPECT_EQ(metadata["unet.target_modules"], kFileTargets);
  // The only safetensors file of a folder is found.
  auto other = lora_unet();
  load_lora_weights(folder.path(), {.unet = other});
  EXPECT_TRUE(torch::equal(lora_output(other), lora_output(unet)));
}

TEST(LoraWeights, OtherNamingsAreRead) {
  const TemporaryFolder folder;
  auto unet = unet_with_lora();
  save_lora_weights(folder.path(), {.unet = unet});
  const auto saved = folder / "pytorch_lora_weights.safetensors";
  auto unscaled = unet_with_lora({.r = 2, .lora_alpha = 2, .target_modules = kFileTargets});
  set_peft_model_state_dict(*unscaled, get_peft_model_state_dict(*unet));

  using Name = std::function<std::string(const std::string&, const std::string&)>;
  const auto dotted = [](const char* prefix, const char* down, const char* up) -> Name {
    return [=](const std::string& layer, const std::string& kind) {
      return prefix + layer + (kind == "down" ? down : kind == "up" ? up : ".alpha");
    };
  };
  const auto kohya = [](const std::string& layer, const std::string& kind) {
    const auto name = "lora_unet_" + flat_name(layer);
    return name + (kind == "alpha" ? ".alpha" : ".lora_" + kind + ".weight");
  };
  const std::map<std::string, Name> namings{
      {"kohya", kohya},
      {"bare", dotted("", ".lora_A.weight", ".lora_B.weight")},
      {"peft", dotted("base_model.model.", ".lora_A.weight", ".lora_B.weight")},
      {"diffusers", dotted("unet.", ".lora.down.weight", ".lora.up.weight")},
      {"dotted", dotted("unet.", ".lora_down.weight", ".lora_up.weight")},
  };
  for (const auto& [title, name] : namings) {
    for (const bool with_alpha : {false, true}) {
      rename_lora(saved, folder / "other.safetensors", name, with_alpha ? std::optional(3.0) : std::nullopt);
      auto other = lora_unet();
      load_lora_weights(folder.path(), {.unet = other}, {.weight_name = "other.safetensors"});
      // Without an alpha, the scale is 1.
      EXPECT_TRUE(torch::equal(lora_output(other), lora_output(with_alpha ? unet : unscaled))) << title;
    }
  }
}

TEST(LoraWeights, AttentionProcessorsBeforePeftAreRead) {
  const TemporaryFolder folder;
  auto unet = unet_with_lora({.r = 2, .lora_alpha = 2, .target_modules = {"to_k", "to_out.0"}});
  save_lora_weights(folder.path(), {.unet = unet});
  for (const char* prefix : {"", "unet."}) {
    rename_lora(
        folder / "pytorch_lora_weights.safetensors", folder / "other.safetensors",
        [&](std::string layer, const std::string& kind) {
          if (layer.ends_with(".0")) layer.resize(layer.size() - 2);
          const auto dot = layer.rfind('.');
          return prefix + layer.substr(0, dot) + ".processor" + layer.substr(dot) + "_lora." + kind +
                 ".weight";
        },
        std::nullopt);
    auto other = lora_unet();
    load_lora_weights(folder / "other.safetensors", {.unet = other});
    EXPECT_TRUE(torch::equal(lora_output(other), lora_output(unet)));
  }
}

TEST(LoraWeights, RanksAndAlphasMayDiffer) {
  const TemporaryFolder folder;
  const LoraConfig config{.r = 2,
                          .lora_alpha = 1,
                          .target_modules = kFileTargets,
                          .rank_pattern = {{"to_k", 3}},
                          .alpha_pattern = {{"to_k", 6}}};
  auto unet = unet_with_lora(config);
  TensorMap tensors;
  for (const auto& [name, tensor] : get_peft_model_state_dict(*unet)) {
    const auto layer = name.substr(0, name.rfind(".lora_"));
    tensors.insert("unet." + name, tensor);
    if (name.ends_with(".lora_A.weight"))
      tensors.insert("unet." + layer + ".alpha", torch::tensor(layer.ends_with("to_k") ? 6.0 : 1.0));
  }
  save_safetensors(tensors, folder / "a.safetensors");
  auto other = lora_unet();
  load_lora_weights(folder.path(), {.unet = other});
  EXPECT_TRUE(torch::equal(lora_output(other), lora_output(unet)));
  const auto read = other->peft_config("default_0");
  EXPECT_EQ(read.r, 2);
  EXPECT_EQ(read.lora_alpha, 1);
  // It is saved with metadata, and read back.
  save_lora_weights(folder / "again", {.unet = other});
  auto third = lora_unet();
  load_lora_weights(folder / "again", {.unet = third});
  EXPECT_TRUE(torch::equal(lora_output(third), lora_output(unet)));
}

/// Loads a file with some tensors and expects an error that leaves the model unchanged.
void expect_refused_file(const std::function<void(TensorMap&, std::map<std::string, std::string>&)>& change,
                         const std::string& part) {
  const TemporaryFolder folder;
  save_lora_weights(folder.path(), {.unet = unet_with_lora()});
  const auto path = folder / "pytorch_lora_weights.safetensors";
  auto tensors = load_safetensors(path);
  auto metadata = SafetensorsFile(path).metadata();
  change(tensors, metadata);
  save_safetensors(tensors, path, metadata);
  auto unet = lora_unet();
  expect_throws_with<Error>([&] { load_lora_weights(folder.path(), {.unet = unet}); }, part);
  EXPECT_TRUE(unet->adapter_names().empty());
  EXPECT_EQ(unet->num_parameters(true), unet->num_parameters());
}

TEST(LoraWeights, FilesThatDoNotFitAreRefused) {
  using Metadata = std::map<std::string, std::string>;
  const auto added = [](const std::string& name, const Tensor& tensor) {
    return [=](TensorMap& tensors, Metadata&) { tensors[name] = tensor; };
  };
  const auto setting = [](const std::string& name, const Json& value) {
    return [=](TensorMap&, Metadata& metadata) {
      auto json = parse_json(metadata.at("lora_adapter_metadata"), "metadata");
      json["unet." + name] = value;
      metadata["lora_adapter_metadata"] = json.dump();
    };
  };
  const auto one = torch::zeros({1});
  expect_refused_file(added("unet.nowhere.lora_A.weight", one), "unet.nowhere.lora_A.weight");
  expect_refused_file(added("unet." + kPath + ".strange", one), ".strange");
  expect_refused_file(added("text_encoder.x.lora_A.weight", one), "text_encoder.x.lora_A.weight");
  expect_refused_file(added("lora_unet_nowhere.lora_down.weight", one), "lora_unet_nowhere");
  expect_refused_file(added("lora_unet_x.hada_w1_a", one), "LoHa");
  expect_refused_file(added("lora_unet_x.lokr_w1", one), "LoKr");
  for (const auto& [ending, kind] :
       {std::pair("oft_blocks", "OFT"), std::pair("oft_R.weight", "OFT"), std::pair("boft_R", "BOFT"),
        std::pair("vera_lambda_b", "VeRA"), std::pair("on_input", "(IA)^3"), std::pair("ia3_l", "(IA)^3"),
        std::pair("a1.weight", "GLoRA"), std::pair("hra_u", "HRA"),
        std::pair("fourierft_spectrum", "FourierFT"), std::pair("w_norm", "norms of LyCORIS"),
        std::pair("diff", "full weights of LyCORIS"), std::pair("diff_b", "full weights of LyCORIS")})
    expect_refused_file(added(std::string("lora_unet_x.") + ending, one),
                        std::string(ending) + " is a tensor of " + kind + ", which is not supported");
  expect_refused_file(added("lora_unet_x.dora_scale", one), "DoRA of LyCORIS");
  expect_refused_file(added("unet." + kPath + ".lora_A.weight", torch::zeros({3, 8})), "different ranks");
  expect_refused_file(added("unet." + kPath + ".lora_A.weight", torch::zeros({2, 7})),
                      kPath + ".lora_A.weight has shape [2, 7], expected [2, 8]");
  expect_refused_file(added("unet." + kPath + ".alpha", torch::zeros({2})), "expected one number");
  expect_refused_file(
      [](TensorMap& tensors, Metadata&) { tensors.erase("unet." + kPath + ".lora_B.weight"); },
      kPath + " has no lora_B");
  expect_refused_file(setting("r", 5), "expected [5, ");
  expect_refused_file(setting("r", "5"), "unet.r is \"5\", expected an integer");
  expect_refused_file(setting("lora_bias", true), "unet.lora_bias is true");
  expect_refused_file(setting("init_lora_weights", "pissa"), "pissa");
  expect_refused_file(setting("use_dora", true), "has no lora_magnitude_vector");
  expect_refused_file(setting("peft_type", "LOKR"), "LOKR");
  expect_refused_file([](TensorMap&, Metadata& metadata) { metadata["lora_adapter_metadata"] = "{"; },
                      "lora_adapter_metadata");
}

TEST(LoraWeights, CallsAreChecked) {
  const TemporaryFolder folder;
  auto plain = lora_unet();
  expect_throws_with<ConfigError>([&] { save_lora_weights(folder.path(), {}); }, "no model was given");
  expect_throws_with<ConfigError>([&] { save_lora_weights(folder.path(), {.unet = plain}); },
                                  "has no adapter");
  auto unet = unet_with_lora();
  expect_throws_with<ConfigError>(
      [&] { save_lora_weights(folder.path(), {.unet = unet, .adapter_name = "style"}); },
      "no adapter \"style\"");
  expect_throws_with<FileError>([&] { load_lora_weights(folder / "nothing", {.unet = plain}); },
                                "no such file");
  expect_throws_with<FileError>([&] { load_lora_weights(folder.path(), {.unet = plain}); }, "found none");
  save_lora_weights(folder.path(), {.unet = unet});
  expect_throws_with<ConfigError>(
      [&] { load_lora_weights(folder.path(), {.unet = unet}, {.adapter_name = "default"}); }, "already has");
  for (const auto* name : {"a.safetensors", "b.safetensors"})
    save_lora_weights(folder / "two", {.unet = unet, .weight_name = name});
  expect_throws_with<FileError>([&] { load_lora_weights(folder / "two", {.unet = plain}); }, "b.safetensors");
  save_safetensors({{"x", torch::zeros({1})}}, folder / "x.safetensors");
  expect_throws_with<FileError>([&] { load_lora_weights(folder / "x.safetensors", {.unet = plain}); }, "x");
}

TEST(LoraWeights, PicklesAreRefusedWithTheCommandThatConvertsThem) {
  const TemporaryFolder folder;
  auto unet = lora_unet();
  const auto expect_command = [&](const std::string& path, const std::string& weight_name,
                                  const std::string& name) {
    expect_throws_with<FileError>(
        [&] { load_lora_weights(path, {.unet = unet}, {.weight_name = weight_name}); },
        "can run code and is not read; convert it with this command: python3 -c");
    expect_throws_with<FileError>(
        [&] { load_lora_weights(path, {.unet = unet}, {.weight_name = weight_name}); },
        "torch.load('" + folder / name + "', weights_only=True)");
  };
  write_file("x", folder / "pytorch_lora_weights.bin");
  expect_command(folder / "pytorch_lora_weights.bin", "", "pytorch_lora_weights.bin");
  expect_command(folder.path(), "", "pytorch_lora_weights.bin");
  expect_command(folder.path(), "old.pt", "old.pt");
}

}  // namespace
}  // namespace diffusers::test
