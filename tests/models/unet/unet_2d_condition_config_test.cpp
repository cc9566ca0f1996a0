#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <diffusers/models/unet_2d_condition.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers::test {
namespace {

using ConditionConfig = UNet2DConditionModelConfig;

ConditionConfig small_condition_config() {
  return {.in_channels = 2,
          .out_channels = 2,
          .down_block_types = {"CrossAttnDownBlock2D", "DownBlock2D"},
          .up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D"},
          .block_out_channels = {4, 8},
          .layers_per_block = 1,
          .norm_num_groups = 2,
          .cross_attention_dim = 6,
          .attention_head_dim = 2};
}

struct BadConditionConfig {
  std::string name;
  std::function<void(ConditionConfig&)> change;
  std::vector<std::string> expected;  ///< expected parts of the message
};

TEST(UNet2DConditionModel, ImpossibleConfigsAreRefusedByKeyAndValue) {
  using C = ConditionConfig;
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<BadConditionConfig> cases{
      {"down list", [](C& c) { c.down_block_types = {"DownBlock2D"}; }, {"down_block_types has 1"}},
      {"up list", [](C& c) { c.up_block_types = {"UpBlock2D"}; }, {"up_block_types has 1"}},
      {"no blocks", [](C& c) { c.block_out_channels = {}; }, {"block_out_channels is empty"}},
      {"only cross", [](C& c) { c.only_cross_attention = {true}; }, {"only_cross_attention has 1"}},
      {"heads list",
       [](C& c) {
         c.attention_head_dim = {1, 2, 3};
       },
       {"attention_head_dim has 3"}},
      {"no heads", [](C& c) { c.attention_head_dim = {}; }, {"attention_head_dim has 0"}},
      {"zero heads", [](C& c) { c.attention_head_dim = 0; }, {"attention_head_dim is 0"}},
      {"many heads",
       [](C& c) { c.attention_head_dim = 5; },
       {"down_block_types[0]", "attention_head_dim is 5", "4 channels"}},
      {"num_attention_heads", [](C& c) { c.num_attention_heads = 4; }, {"num_attention_heads is [4]"}},
      {"cross list", [](C& c) { c.cross_attention_dim = {6}; }, {"cross_attention_dim has 1"}},
      {"cross", [](C& c) { c.cross_attention_dim = 0; }, {"cross_attention_dim is 0"}},
      {"layers list", [](C& c) { c.layers_per_block = {1}; }, {"layers_per_block has 1"}},
      {"layers", [](C& c) { c.layers_per_block = 0; }, {"layers_per_block is 0"}},
      {"transformer layers",
       [](C& c) { c.transformer_layers_per_block = -1; },
       {"transformer_layers_per_block is -1"}},
      {"nested without reverse",
       [](C& c) {
         c.transformer_layers_per_block = {{1}, 1};
       },
       {"needs reverse_transformer_layers_per_block"}},
      {"nested too short",
       [](C& c) {
         c.transformer_layers_per_block = {{1}, 1};
         c.reverse_transformer_layers_per_block = {1, {1}};
       },
       {"up_block_types[1]", "transformer_layers_per_block has 1 elements"}},
      {"reverse number",
       [](C& c) { c.reverse_transformer_layers_per_block = 1; },
       {"reverse_transformer_layers_per_block is a number"}},
      {"skip", [](C& c) { c.down_block_types[1] = "SkipDownBlock2D"; }, {"SkipDownBlock2D", "UNet2DModel"}},
      {"attention skip", [](C& c) { c.up_block_types[1] = "AttnSkipUpBlock2D"; }, {"AttnSkipUpBlock2D"}},
      {"encoder block",
       [](C& c) { c.down_block_types[1] = "DownEncoderBlock2D"; },
       {"DownEncoderBlock2D", "autoencoders"}},
      {"unknown",
       [](C& c) { c.up_block_types[1] = "UpBlock3D"; },
       {"\"UpBlock3D\" does not exist", "SimpleCrossAttnUpBlock2D"}},
      {"mid", [](C& c) { c.mid_block_type = "MidBlock"; }, {"mid_block_type is \"MidBlock\""}},
      {"groups", [](C& c) { c.norm_num_groups = 3; }, {"4 channels", "3 groups", "down_block_types[0]"}},
      {"no groups", [](C& c) { c.norm_num_groups.reset(); }, {"norm_num_groups is null"}},
      {"encoder type",
       [](C& c) { c.encoder_hid_dim_type = "text_proj"; },
       {"encoder_hid_dim_type is \"text_proj\"", "encoder_hid_dim"}},
      {"encoder list",
       [](C& c) {
         c.encoder_hid_dim = 4;
         c.cross_attention_dim = {6, 6};
       },
       {"cross_attention_dim is [6, 6]"}},
      {"projection",
       [](C& c) { c.class_embed_type = "projection"; },
       {"class_embed_type is \"projection\"", "projection_class_embeddings_input_dim"}},
      {"text time",
       [](C& c) { c.addition_embed_type = "text_time"; },
       {"addition_embed_type is \"text_time\"", "addition_time_embed_dim"}},
      {"image", [](C& c) { c.addition_embed_type = "image"; }, {"\"image\"", "encoder_hid_dim"}},
      {"hint",
       [](C& c) {
         c.addition_embed_type = "image_hint";
         c.encoder_hid_dim = 4;
       },
       {"in_channels is 2", "image_hint"}},
      {"heads of addition",
       [](C& c) { c.addition_embed_type = "text"; },
       {"addition_embed_type_num_heads is 64", "6 channels"}},
      {"concat", [](C& c) { c.class_embeddings_concat = true; }, {"class_embeddings_concat is true"}},
      {"learned", [](C& c) { c.time_embedding_type = "learned"; }, {"time_embedding_type is \"learned\""}},
      {"odd fourier",
       [](C& c) {
         c.time_embedding_type = "fourier";
         c.time_embedding_dim = 7;
       },
       {"time_embedding_dim is 7"}},
      {"freq_shift", [](C& c) { c.freq_shift = 2; }, {"freq_shift is 2", "block_out_channels[0] = 4"}},
      {"act", [](C& c) { c.time_embedding_act_fn = "tanh"; }, {"time_embedding_act_fn is \"tanh\""}},
      {"post act", [](C& c) { c.timestep_post_act = "tanh"; }, {"timestep_post_act is \"tanh\""}},
      {"kernel", [](C& c) { c.conv_in_kernel = 0; }, {"conv_in_kernel is 0"}},
      {"gligen", [](C& c) { c.attention_type = "gated"; }, {"attention_type is \"gated\""}},
      {"layer norm",
       [](C& c) {
         c.mid_block_type = "UNetMidBlock2DSimpleCrossAttn";
         c.cross_attention_norm = "layer_norm";
       },
       {"cross_attention_norm", "8 channels", "6"}},
      {"scale", [](C& c) { c.resnet_out_scale_factor = 0; }, {"resnet_out_scale_factor is 0"}},
      {"mid scale", [](C& c) { c.mid_block_scale_factor = kNan; }, {"mid_block_scale_factor is nan"}},
      {"dropout", [](C& c) { c.dropout = 1.5; }, {"dropout is 1.5"}},
      {"K layers",
       [](C& c) {
         c.up_block_types[0] = "KCrossAttnUpBlock2D";
         c.attention_head_dim = 64;
       },
       {"down_block_types[0]", "attention_head_dim is 64"}},
      {"huge", [](C& c) { c.block_out_channels[1] = int64_t{1} << 60; }, {"block_out_channels is 115292"}},
  };
  for (const auto& bad : cases) {
    SCOPED_TRACE(bad.name);
    auto config = small_condition_config();
    bad.change(config);
    for (const auto& part : bad.expected)
      expect_throws_with<ConfigError>([&] { UNet2DConditionModel model(config); }, part);
  }
}

TEST(UNet2DConditionModel, WrongValuesInJsonAreRefusedByKey) {
  const auto refuse = [](const std::string& json, const std::string& part) {
    expect_throws_with<ConfigError>([&] { UNet2DConditionModel::from_config(json); }, part);
  };
  refuse(R"({"encoder_hid_dim_type": "ip_image_proj"})", "encoder_hid_dim_type is \"ip_image_proj\"");
  refuse(R"({"addition_embed_type": "audio"})", "addition_embed_type is \"audio\"");
  refuse(R"({"class_embed_type": "table"})", "class_embed_type is \"table\"");
  refuse(R"({"attention_type": "open"})", "attention_type is \"open\"");
  refuse(R"({"cross_attention_norm": "rms"})", "cross_attention_norm is \"rms\"");
  refuse(R"({"resnet_time_scale_shift": "spatial"})", "resnet_time_scale_shift is \"spatial\"");
  refuse(R"({"transformer_layers_per_block": [1, "2"]})", "transformer_layers_per_block is \"2\"");
  refuse(R"({"transformer_layers_per_block": [1, null, 1, 1]})",
         "transformer_layers_per_block has an element");
  refuse(R"({"attention_head_dim": null})", "attention_head_dim has 0 elements");
  refuse(R"({"num_attention_heads": 8})", "num_attention_heads is [8]");
  refuse(R"({"cross_attention_dim": [6, 6, 6, 6], "addition_embed_type": "text"})",
         "cross_attention_dim is [6, 6, 6, 6]");
  refuse(R"({"flip_sin_to_cos": null})", "flip_sin_to_cos is null");
}

TEST(UNet2DConditionModel, TheDefaultConfigIsWrittenAsInDiffusers) {
  const std::string expected = R"({
  "_class_name": "UNet2DConditionModel",
  "_diffusers_version": "0.42.1",
  "act_fn": "silu",
  "addition_embed_type": null,
  "addition_embed_type_num_heads": 64,
  "addition_time_embed_dim": null,
  "attention_head_dim": 8,
  "attention_type": "default",
  "block_out_channels": [
    320,
    640,
    1280,
    1280
  ],
  "center_input_sample": false,
  "class_embed_type": null,
  "class_embeddings_concat": false,
  "conv_in_kernel": 3,
  "conv_out_kernel": 3,
  "cross_attention_dim": 1280,
  "cross_attention_norm": null,
  "down_block_types": [
    "CrossAttnDownBlock2D",
    "CrossAttnDownBlock2D",
    "CrossAttnDownBlock2D",
    "DownBlock2D"
  ],
  "downsample_padding": 1,
  "dropout": 0.0,
  "dual_cross_attention": false,
  "encoder_hid_dim": null,
  "encoder_hid_dim_type": null,
  "flip_sin_to_cos": true,
  "freq_shift": 0,
  "in_channels": 4,
  "layers_per_block": 2,
  "mid_block_only_cross_attention": null,
  "mid_block_scale_factor": 1,
  "mid_block_type": "UNetMidBlock2DCrossAttn",
  "norm_eps": 1e-05,
  "norm_num_groups": 32,
  "num_attention_heads": null,
  "num_class_embeds": null,
  "only_cross_attention": false,
  "out_channels": 4,
  "projection_class_embeddings_input_dim": null,
  "resnet_out_scale_factor": 1.0,
  "resnet_skip_time_act": false,
  "resnet_time_scale_shift": "default",
  "reverse_transformer_layers_per_block": null,
  "sample_size": null,
  "time_cond_proj_dim": null,
  "time_embedding_act_fn": null,
  "time_embedding_dim": null,
  "time_embedding_type": "positional",
  "timestep_post_act": null,
  "transformer_layers_per_block": 1,
  "up_block_types": [
    "UpBlock2D",
    "CrossAttnUpBlock2D",
    "CrossAttnUpBlock2D",
    "CrossAttnUpBlock2D"
  ],
  "upcast_attention": false,
  "use_linear_projection": false
}
)";
  EXPECT_EQ(write_model_config(UNet2DConditionModelConfig{}, ""), expected);
}

TEST(UNet2DConditionModel, NullFlagsAreFalseAndStayNull) {
  auto json = parse_json(write_model_config(small_condition_config(), ""), "small");
  json["upcast_attention"] = nullptr;
  json["decay"] = 0.9999;
  const auto model = UNet2DConditionModel::from_config(json.dump());
  EXPECT_FALSE(model->config().upcast_attention);
  const auto written = parse_json(model->config_json(), "written");
  EXPECT_TRUE(written["upcast_attention"].is_null());
  EXPECT_EQ(written["decay"], 0.9999);
  EXPECT_EQ(model->load_report().unknown_config_keys, std::vector<std::string>{"decay"});
}

TEST(UNet2DConditionModel, EncoderHidDimAloneMeansTextProj) {
  auto config = small_condition_config();
  config.encoder_hid_dim = 5;
  const UNet2DConditionModel model(config);
  EXPECT_EQ(model->config().encoder_hid_dim_type, EncoderHidDimType::kTextProj);
  const auto written = parse_json(model->config_json(), "written");
  EXPECT_EQ(written["encoder_hid_dim_type"], "text_proj");
}

TEST(UNet2DConditionModel, OneOrManyFieldsTakeNumbersListsAndNestedLists) {
  const UNet2DConditionModelConfig config{.only_cross_attention = {true, false},
                                          .layers_per_block = {1, 2},
                                          .cross_attention_dim = 768,
                                          .transformer_layers_per_block = {1, {2, 2}},
                                          .reverse_transformer_layers_per_block = {{4, 4, 10}, 1},
                                          .attention_head_dim = {5, 10}};
  const auto json = parse_json(write_model_config(config, ""), "config");
  EXPECT_EQ(json["transformer_layers_per_block"], Json::parse("[1, [2, 2]]"));
  EXPECT_EQ(json["reverse_transformer_layers_per_block"], Json::parse("[[4, 4, 10], 1]"));
  EXPECT_EQ(json["only_cross_attention"], Json::parse("[true, false]"));
  UNet2DConditionModelConfig again;
  std::string source;
  LoadReport report;
  read_model_config(json.dump(), "test", again, source, report);
  EXPECT_EQ(again.transformer_layers_per_block, config.transformer_layers_per_block);
  EXPECT_EQ(again.reverse_transformer_layers_per_block, config.reverse_transformer_layers_per_block);
  EXPECT_EQ(again.layers_per_block, config.layers_per_block);
}

TEST(UNet2DConditionModel, WrongInputsAreRefusedWithBothSides) {
  auto config = small_condition_config();
  UNet2DConditionModel model(config);
  const auto sample = torch::randn({2, 2, 8, 8});
  const auto times = torch::tensor({1, 2});
  const auto encoder = torch::randn({2, 5, 6});
  const auto refuse = [&](const Tensor& x, const Tensor& t, const Tensor& states,
                          const UNet2DConditionModelForwardOptions& options, const std::string& part) {
    expect_throws_with<TensorError>([&] { model->forward(x, t, states, options); }, part);
  };
  refuse({}, times, encoder, {}, "expected [B, 2, H, W], got an undefined tensor");
  refuse(sample.to(torch::kDouble), times, encoder, {}, "sample is float64, the model float32");
  refuse(sample, torch::tensor({1, 2, 3}), encoder, {}, "expected [2] or a single one");
  refuse(sample, times, {}, {}, "expected encoder_hidden_states [2, S, 6], got none");
  refuse(sample, times, torch::randn({2, 5, 7}), {}, "expected encoder_hidden_states [2, S, 6]");
  refuse(sample, times, torch::randn({1, 5, 6}), {}, "expected encoder_hidden_states [2, S, 6]");
  refuse(sample, times, torch::randn({2, 6}), {}, "expected encoder_hidden_states [2, S, 6]");
  refuse(sample, times, encoder.to(torch::kHalf), {}, "encoder_hidden_states are float16");
  refuse(sample, times, encoder, {.class_labels = times}, "class_labels: expected none");
  refuse(sample, times, encoder, {.timestep_cond = encoder}, "timestep_cond: expected none");
  refuse(sample, times, encoder, {.encoder_attention_mask = torch::ones({2, 4})}, "does not broadcast");
  refuse(sample, times, encoder, {.encoder_attention_mask = torch::ones({2, 1, 5})},
         "encoder_attention_mask: expected [2, tokens]");
  refuse(sample, times, encoder, {.attention_mask = torch::ones({2, 5})}, "does not broadcast");
  const std::vector<Tensor> residuals{torch::zeros({2, 4, 8, 8}), torch::zeros({2, 4, 8, 8})};
  refuse(sample, times, encoder, {.mid_block_additional_residual = residuals[0]},
         "expected down_block_additional_residuals");
  refuse(sample, times, encoder,
         {.down_block_additional_residuals = residuals, .down_intrablock_additional_residuals = residuals},
         "expected mid_block_additional_residual");
  refuse(sample, times, encoder,
         {.down_block_additional_residuals = residuals, .mid_block_additional_residual = residuals[0]},
         "expected 4 tensors, got 2");
  refuse(sample, times, encoder, {.down_intrablock_additional_residuals = {torch::zeros({2, 5, 8, 8})}},
         "does not fit the hidden states");
  expect_throws_with<TensorError>(
      [&] { model->forward(sample, std::numeric_limits<double>::infinity(), encoder); }, "finite");

  config.addition_embed_type = "text_time";
  config.addition_time_embed_dim = 4;
  config.projection_class_embeddings_input_dim = 29;
  model = UNet2DConditionModel(config);
  const auto text = torch::randn({2, 5});
  const auto ids = torch::ones({2, 6});
  refuse(sample, times, encoder, {}, "needs added_cond_kwargs with text_embeds");
  refuse(sample, times, encoder, {.added_cond_kwargs = {.text_embeds = text}}, "time_ids [2, n]");
  refuse(sample, times, encoder, {.added_cond_kwargs = {.text_embeds = text, .time_ids = ids.slice(1, 0, 5)}},
         "make 25 features, expected projection_class_embeddings_input_dim = 29");
  EXPECT_NO_THROW(
      model->forward(sample, times, encoder, {.added_cond_kwargs = {.text_embeds = text, .time_ids = ids}}));

  config = small_condition_config();
  config.num_class_embeds = 4;
  model = UNet2DConditionModel(config);
  refuse(sample, times, encoder, {}, "class_labels: expected [2]");
  refuse(sample, times, encoder, {.class_labels = torch::tensor({0, 4})}, "[0, num_class_embeds = 4), got 4");

  config.class_embed_type = "simple_projection";
  config.projection_class_embeddings_input_dim = 3;
  model = UNet2DConditionModel(config);
  refuse(sample, times, encoder, {.class_labels = times}, "class_labels: expected floating [2, 3]");
}

}  // namespace
}  // namespace diffusers::test
