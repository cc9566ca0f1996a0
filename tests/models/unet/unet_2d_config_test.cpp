#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <diffusers/models/unet_2d.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/unet/unet_2d_golden.h"
#include "support/golden.h"

namespace diffusers::test {
namespace {

UNet2DModelConfig small_config() {
  return {.down_block_types = {"DownBlock2D", "AttnDownBlock2D"},
          .up_block_types = {"AttnUpBlock2D", "UpBlock2D"},
          .block_out_channels = {8, 16},
          .layers_per_block = 1,
          .attention_head_dim = 4,
          .norm_num_groups = 4};
}

struct BadConfig {
  std::string name;
  std::function<void(UNet2DModelConfig&)> change;
  std::vector<std::string> expected;  ///< expected parts of the message
};

TEST(UNet2DModel, ImpossibleConfigsAreRefusedByKeyAndValue) {
  using C = UNet2DModelConfig;
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<BadConfig> cases{
      {"lists",
       [](C& c) {
         c.block_out_channels = {8, 16, 16};
       },
       {"down_block_types has 2", "block_out_channels 3"}},
      {"up list", [](C& c) { c.up_block_types = {"UpBlock2D"}; }, {"up_block_types 1"}},
      {"no blocks",
       [](C& c) {
         c.block_out_channels = {};
         c.down_block_types = {};
         c.up_block_types = {};
       },
       {"block_out_channels is empty"}},
      {"unknown down",
       [](C& c) { c.down_block_types[0] = "DownBlock3D"; },
       {"\"DownBlock3D\" does not exist", "KDownBlock2D"}},
      {"unknown up",
       [](C& c) { c.up_block_types[1] = "UpBlock"; },
       {"\"UpBlock\" does not exist", "AttnUpBlock2D"}},
      {"cross",
       [](C& c) { c.down_block_types[0] = "CrossAttnDownBlock2D"; },
       {"CrossAttnDownBlock2D", "encoder's hidden states"}},
      {"decoder",
       [](C& c) { c.up_block_types[0] = "UpDecoderBlock2D"; },
       {"UpDecoderBlock2D", "autoencoders"}},
      {"mid", [](C& c) { c.mid_block_type = "MidBlock"; }, {"mid_block_type is \"MidBlock\""}},
      {"groups",
       [](C& c) { c.norm_num_groups = 5; },
       {"8 channels", "5 groups", "down_block_types[0]", "norm_num_groups 5"}},
      {"zero groups", [](C& c) { c.norm_num_groups = 0; }, {"norm_num_groups is 0"}},
      {"no groups", [](C& c) { c.norm_num_groups.reset(); }, {"norm_num_groups is null"}},
      {"attention groups",
       [](C& c) { c.attn_norm_num_groups = 3; },
       {"16 channels", "3 groups", "mid_block_type"}},
      {"zero attention groups", [](C& c) { c.attn_norm_num_groups = 0; }, {"attn_norm_num_groups is 0"}},
      {"zero head", [](C& c) { c.attention_head_dim = 0; }, {"attention_head_dim is 0"}},
      {"negative head", [](C& c) { c.attention_head_dim = -8; }, {"attention_head_dim is -8"}},
      {"large head", [](C& c) { c.attention_head_dim = 64; }, {"attention_head_dim is 64", "16 channels"}},
      {"zero channels", [](C& c) { c.in_channels = 0; }, {"in_channels is 0"}},
      {"negative channels", [](C& c) { c.out_channels = -1; }, {"out_channels is -1"}},
      {"zero width", [](C& c) { c.block_out_channels[1] = 0; }, {"block_out_channels is 0"}},
      {"huge width",
       [](C& c) { c.block_out_channels[1] = int64_t{1} << 60; },
       {"block_out_channels is 1152921504606846976"}},
      {"zero layers", [](C& c) { c.layers_per_block = 0; }, {"layers_per_block is 0"}},
      {"huge layers", [](C& c) { c.layers_per_block = int64_t{1} << 60; }, {"layers_per_block is"}},
      {"sample size", [](C& c) { c.sample_size = 0; }, {"sample_size is 0"}},
      {"sample sizes",
       [](C& c) {
         c.sample_size = {1, 2, 3};
       },
       {"sample_size is [1, 2, 3]"}},
      {"time dim", [](C& c) { c.time_embedding_dim = 0; }, {"time_embedding_dim is 0"}},
      {"padding", [](C& c) { c.downsample_padding = -1; }, {"downsample_padding is -1"}},
      {"dropout", [](C& c) { c.dropout = 1.5; }, {"dropout is 1.5"}},
      {"nan dropout", [](C& c) { c.dropout = kNan; }, {"dropout is nan"}},
      {"eps", [](C& c) { c.norm_eps = kNan; }, {"norm_eps is nan"}},
      {"negative eps", [](C& c) { c.norm_eps = -1; }, {"norm_eps is -1"}},
      {"mid scale", [](C& c) { c.mid_block_scale_factor = 0; }, {"mid_block_scale_factor is 0"}},
      {"act_fn", [](C& c) { c.act_fn = "tanh"; }, {"act_fn is \"tanh\"", "mish"}},
      {"freq_shift", [](C& c) { c.freq_shift = 4; }, {"freq_shift is 4", "block_out_channels[0] = 8"}},
      {"learned",
       [](C& c) { c.time_embedding_type = TimeEmbeddingType::kLearned; },
       {"needs num_train_timesteps"}},
      {"no classes", [](C& c) { c.num_class_embeds = 0; }, {"num_class_embeds is 0"}},
      {"skip image",
       [](C& c) {
         c.in_channels = 1;
         c.down_block_types = {"SkipDownBlock2D", "SkipDownBlock2D"};
       },
       {"in_channels is 1", "3 channels"}},
      {"skip output",
       [](C& c) {
         c.out_channels = 1;
         c.up_block_types = {"SkipUpBlock2D", "SkipUpBlock2D"};
       },
       {"out_channels is 1", "3 channels"}},
      {"skip attention groups",
       [](C& c) { c.down_block_types[1] = "AttnSkipDownBlock2D"; },
       {"16 channels", "32 groups"}},
      {"narrow K", [](C& c) { c.down_block_types[0] = "KDownBlock2D"; }, {"8 channels", "0 groups"}},
  };
  for (const auto& bad : cases) {
    SCOPED_TRACE(bad.name);
    auto config = small_config();
    bad.change(config);
    for (const auto& part : bad.expected)
      expect_throws_with<ConfigError>([&] { UNet2DModel model(config); }, part);
  }
}

TEST(UNet2DModel, WrongValuesInJsonAreRefusedByKey) {
  const auto refuse = [](const std::string& json, const std::string& part) {
    expect_throws_with<ConfigError>([&] { UNet2DModel::from_config(json); }, part);
  };
  refuse(R"({"in_channels": "three"})", "in_channels is \"three\"");
  refuse(R"({"in_channels": 1.5})", "in_channels is 1.5");
  refuse(R"({"in_channels": null})", "in_channels is null");
  refuse(R"({"time_embedding_type": "cosine"})", "time_embedding_type is \"cosine\"");
  refuse(R"({"class_embed_type": "projection"})", "class_embed_type is \"projection\"");
  refuse(R"({"resnet_time_scale_shift": "spatial"})", "resnet_time_scale_shift is \"spatial\"");
  refuse(R"({"downsample_type": "pool"})", "downsample_type is \"pool\"");
  refuse(R"({"upsample_type": null})", "upsample_type is null");
  refuse(R"({"block_out_channels": 32})", "block_out_channels is 32");
  refuse("[1, 2]", "expected a JSON object");
  expect_throws_with<FileError>([] { UNet2DModel::from_config("{\"in_channels\": }"); }, "JSON");
}

TEST(UNet2DModel, TheDefaultConfigIsWrittenAsInDiffusers) {
  const std::string expected = R"({
  "_class_name": "UNet2DModel",
  "_diffusers_version": "0.42.1",
  "act_fn": "silu",
  "add_attention": true,
  "attention_head_dim": 8,
  "attn_norm_num_groups": null,
  "block_out_channels": [
    224,
    448,
    672,
    896
  ],
  "center_input_sample": false,
  "class_embed_type": null,
  "down_block_types": [
    "DownBlock2D",
    "AttnDownBlock2D",
    "AttnDownBlock2D",
    "AttnDownBlock2D"
  ],
  "downsample_padding": 1,
  "downsample_type": "conv",
  "dropout": 0.0,
  "flip_sin_to_cos": true,
  "freq_shift": 0,
  "in_channels": 3,
  "layers_per_block": 2,
  "mid_block_scale_factor": 1,
  "mid_block_type": "UNetMidBlock2D",
  "norm_eps": 1e-05,
  "norm_num_groups": 32,
  "num_class_embeds": null,
  "num_train_timesteps": null,
  "out_channels": 3,
  "resnet_time_scale_shift": "default",
  "sample_size": null,
  "time_embedding_dim": null,
  "time_embedding_type": "positional",
  "up_block_types": [
    "AttnUpBlock2D",
    "AttnUpBlock2D",
    "AttnUpBlock2D",
    "UpBlock2D"
  ],
  "upsample_type": "conv"
}
)";
  EXPECT_EQ(write_model_config(UNet2DModelConfig{}, ""), expected);
}

TEST(UNet2DModel, NullAttentionHeadDimIsNotMissing) {
  const auto read = [](const std::string& json) {
    UNet2DModelConfig config;
    std::string source;
    LoadReport report;
    read_model_config(json, "test", config, source, report);
    return config;
  };
  EXPECT_EQ(read("{}").attention_head_dim, 8);
  EXPECT_EQ(read(R"({"attention_head_dim": null})").attention_head_dim, std::nullopt);
  EXPECT_EQ(read(R"({"norm_num_groups": 16, "_use_default_values": ["norm_num_groups"]})").norm_num_groups,
            32);
}

TEST(UNet2DModel, UnknownConfigKeysSurvive) {
  auto config = unet_2d_cases()["cases"]["plain"]["config"];
  config["decay"] = 0.9999;
  config["_name_or_path"] = "somewhere";
  config["act_fn"] = "SiLU";
  config["mid_block_scale_factor"] = 1.0;
  const auto model = UNet2DModel::from_config(config.dump());
  EXPECT_EQ(model->load_report().unknown_config_keys, std::vector<std::string>{"decay"});
  const auto written = parse_json(model->config_json(), "written");
  EXPECT_EQ(written["decay"], 0.9999);
  EXPECT_EQ(written["_name_or_path"], "somewhere");
  EXPECT_EQ(written["act_fn"], "SiLU");
  EXPECT_EQ(written["_class_name"], "UNet2DModel");
  const auto again = UNet2DModel::from_config(model->config_json());
  EXPECT_EQ(again->config_json(), model->config_json());
}

TEST(UNet2DModel, WrongInputsAreRefusedWithBothSides) {
  UNet2DModel model(small_config());
  const auto sample = torch::randn({2, 3, 8, 8});
  const auto times = torch::tensor({1, 2});
  const auto refuse = [&](const Tensor& x, const Tensor& t, const UNet2DModelForwardOptions& options,
                          const std::string& part) {
    expect_throws_with<TensorError>([&] { model->forward(x, t, options); }, part);
  };
  refuse({}, times, {}, "expected [B, 3, H, W], got an undefined tensor");
  refuse(sample[0], times, {}, "expected [B, 3, H, W], got float32 [3, 8, 8]");
  refuse(torch::randn({2, 4, 8, 8}), times, {}, "expected [B, 3, H, W], got float32 [2, 4, 8, 8]");
  refuse(sample.to(torch::kDouble), times, {}, "sample is float64, the model float32");
  refuse(sample.to(torch::kUInt8), times, {}, "sample is uint8, the model float32");
  refuse(torch::randn({2, 3, 0, 8}), times, {}, "must be positive");
  refuse(sample.to(torch::kMeta), times, {}, "on meta, the model on cpu");
  refuse(sample, Tensor(), {}, "undefined");
  refuse(sample, torch::tensor({1, 2, 3}), {}, "expected [2] or a single one");
  refuse(sample, torch::zeros({2, 1}), {}, "got float32 [2, 1]");
  refuse(sample, torch::tensor({true, false}), {}, "expected integers or real numbers");
  refuse(sample, times.to(torch::kMeta), {}, "timesteps are on meta");
  refuse(sample, times, {.class_labels = times}, "class_labels: expected none");
  refuse(torch::randn({2, 3, 7, 8}), times, {}, "must halve without remainder");
  expect_throws_with<TensorError>([&] { model->forward(sample, std::numeric_limits<double>::infinity()); },
                                  "finite");

  auto config = small_config();
  config.num_class_embeds = 4;
  model = UNet2DModel(config);
  refuse(sample, times, {}, "class_labels: expected [2]");
  refuse(sample, times, {.class_labels = torch::tensor({0, 4})}, "[0, num_class_embeds = 4), got 4");
  refuse(sample, times, {.class_labels = torch::tensor({-1, 3})}, "got -1");
  refuse(sample, times, {.class_labels = torch::tensor({0.5, 1.0})}, "expected integers");
  refuse(sample, times, {.class_labels = torch::tensor({0, 1, 2})}, "expected [2], got int64 [3]");

  config.num_class_embeds.reset();
  config.class_embed_type = ClassEmbedType::kIdentity;
  model = UNet2DModel(config);
  refuse(sample, times, {.class_labels = torch::randn({2, 31})},
         "expected floating [2, 32], got float32 [2, 31]");

  config.class_embed_type.reset();
  config.time_embedding_type = TimeEmbeddingType::kLearned;
  config.num_train_timesteps = 10;
  model = UNet2DModel(config);
  refuse(sample, torch::tensor({1, 10}), {}, "[0, num_train_timesteps = 10), got 10");
  refuse(sample, torch::tensor({1.0, 2.0}), {}, "needs integers");
}

TEST(UNet2DModel, BlocksThatDoNotFitEachOtherAreRefused) {
  auto config = small_config();
  config.block_out_channels = {32, 32};
  config.down_block_types = {"KDownBlock2D", "KDownBlock2D"};
  UNet2DModel model(config);
  const auto sample = torch::randn({2, 3, 8, 8});
  EXPECT_THROW(model->forward(sample, 1), Error);
  config.down_block_types = {"DownBlock2D", "DownBlock2D"};
  config.up_block_types = {"SkipUpBlock2D", "UpBlock2D"};
  model = UNet2DModel(config);
  expect_throws_with<TensorError>([&] { model->forward(sample, 1); }, "must be Skip blocks");
}

}  // namespace
}  // namespace diffusers::test
