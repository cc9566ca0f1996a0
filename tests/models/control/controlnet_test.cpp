#include <string>

#include <diffusers/models/controlnet.h>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/unet/condition_golden.h"

namespace diffusers::test {
namespace {

// The order of summation differs from Python's, which gives a few float32 rounding errors for each layer.
constexpr double kControlFloat32Tolerance = 1e-4;
constexpr double kControlFloat64Tolerance = 1e-9;

const ConditionCases& control_cases() {
  static const ConditionCases cases("controlnet");
  return cases;
}

/// Makes the model of a case, from its UNet if it has one.
ControlNetModel make_controlnet(const std::string& name) {
  const auto& entry = control_cases().cases.at(name);
  if (!entry.contains("unet")) return ControlNetModel(control_cases().make<ControlNetModel>(name));
  torch::manual_seed(entry["seed"].get<uint64_t>());
  const auto unet = UNet2DConditionModel::from_config(entry["unet"].dump());
  const auto& options = entry["unet_options"];
  return ControlNetModel::from_unet(
      unet, {.controlnet_conditioning_channel_order =
                 options.value("controlnet_conditioning_channel_order", "rgb").c_str(),
             .conditioning_embedding_out_channels =
                 options["conditioning_embedding_out_channels"].get<std::vector<int64_t>>(),
             .load_weights_from_unet = options.value("load_weights_from_unet", true),
             .conditioning_channels = options.value("conditioning_channels", 3)});
}

ControlNetOutput run_controlnet(const ControlNetModel& model, const Json& run,
                                const ConditionInputs& inputs) {
  const ControlNetModelForwardOptions options{.conditioning_scale = run.value("conditioning_scale", 1.0),
                                              .class_labels = inputs["class_labels"],
                                              .attention_mask = inputs["attention_mask"],
                                              .added_cond_kwargs = inputs.added_cond_kwargs(),
                                              .guess_mode = run.value("guess_mode", false)};
  const auto sample = inputs["sample"];
  const auto encoder = inputs["encoder_hidden_states"];
  const auto condition = inputs["controlnet_cond"];
  if (!run.contains("scalar"))
    return model->forward(sample, inputs["timesteps"], encoder, condition, options);
  const auto& scalar = run["scalar"];
  return scalar.is_number_float()
             ? model->forward(sample, scalar.get<double>(), encoder, condition, options)
             : model->forward(sample, scalar.get<int64_t>(), encoder, condition, options);
}

void compare_controlnet(const std::string& name, at::ScalarType dtype, bool checkpointing = false) {
  SCOPED_TRACE(name);
  const auto& golden = control_cases().golden;
  const std::string key = dtype == at::kDouble ? name + ".float64" : name;
  const double tolerance = dtype == at::kDouble ? kControlFloat64Tolerance : kControlFloat32Tolerance;
  auto model = make_controlnet(name);
  perturb(model);
  model->to(dtype);
  if (checkpointing) model->enable_gradient_checkpointing();
  const ConditionInputs inputs(control_cases(), key);
  const auto output = run_controlnet(model, control_cases().cases.at(name)["run"], inputs);
  auto tensors = output.down_block_res_samples;
  Tensor loss = (output.mid_block_res_sample * pattern(output.mid_block_res_sample.sizes(), dtype)).sum();
  for (const auto& tensor : tensors) loss = loss + (tensor * pattern(tensor.sizes(), dtype)).sum();
  loss.backward();
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto stored = fmt::format("{}/output/down.{}", key, i);
    expect_close_to_scale(tensors[i], golden[stored], tolerance, stored);
  }
  EXPECT_FALSE(golden.contains(fmt::format("{}/output/down.{}", key, tensors.size())));
  expect_close_to_scale(output.mid_block_res_sample, golden[key + "/output/mid"], tolerance, key + " mid");
  expect_gradients(control_cases(), key, inputs, model, tolerance);
}

class ControlNetModelGolden : public testing::TestWithParam<std::string> {};
class ControlNetModelFloat64 : public testing::TestWithParam<std::string> {};

TEST_P(ControlNetModelGolden, ForwardAndBackwardMatchDiffusers) {
  compare_controlnet(GetParam(), at::kFloat);
}

TEST_P(ControlNetModelFloat64, ForwardAndBackwardMatchDiffusers) {
  compare_controlnet(GetParam(), at::kDouble);
}

TEST_P(ControlNetModelGolden, SameSeedGivesTheWeightsOfDiffusers) {
  expect_initial_weights(make_controlnet(GetParam()), control_cases().cases.at(GetParam()));
}

TEST_P(ControlNetModelGolden, ConfigIsWrittenAsInDiffusers) {
  EXPECT_EQ(make_controlnet(GetParam())->config_json(),
            control_cases().cases.at(GetParam())["config_text"].get<std::string>());
}

INSTANTIATE_TEST_SUITE_P(Cases, ControlNetModelGolden, testing::ValuesIn(control_cases().names()),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Cases, ControlNetModelFloat64,
                         testing::ValuesIn(control_cases().names(/*float64_only=*/true)),
                         [](const auto& info) { return info.param; });

TEST(ControlNetModel, GradientCheckpointingGivesTheSameValuesAndGradients) {
  for (const std::string name : {"sd15", "sdxl"})
    compare_controlnet(name, at::kFloat, /*checkpointing=*/true);
}

TEST(ControlNetModel, StableDiffusionHas361279120Parameters) {
  const layers::SkipInitGuard skip_init;
  const ControlNetModel controlnet({.cross_attention_dim = 768});
  EXPECT_EQ(controlnet->num_parameters(), 361279120);
}

TEST(ControlNetModel, StartsByChangingNothing) {
  torch::manual_seed(0);
  const UNet2DConditionModel unet({.down_block_types = {"CrossAttnDownBlock2D", "DownBlock2D"},
                                   .up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D"},
                                   .block_out_channels = {4, 8},
                                   .norm_num_groups = 2,
                                   .cross_attention_dim = 6,
                                   .attention_head_dim = 2});
  const auto controlnet = ControlNetModel::from_unet(unet);
  const torch::NoGradGuard no_grad;
  const auto sample = torch::randn({2, 4, 8, 8});
  const auto encoder = torch::randn({2, 5, 6});
  const auto control = controlnet->forward(sample, 7, encoder, torch::randn({2, 3, 64, 64}));
  const auto controlled = unet->forward(sample, 7, encoder,
                                        {.down_block_additional_residuals = control.down_block_res_samples,
                                         .mid_block_additional_residual = control.mid_block_res_sample})
                              .sample;
  expect_equal(controlled, unet->forward(sample, 7, encoder).sample);
}

TEST(ControlNetModel, SurvivesSavingLoadingAndCloning) {
  const TemporaryFolder folder;
  auto model = make_controlnet("sdxl");
  perturb(model);
  model->save_pretrained(folder / "controlnet");
  const auto again = ControlNetModel::from_pretrained(folder.path(), {.subfolder = "controlnet"});
  EXPECT_EQ(again->config_json(), model->config_json());
  const ControlNetModel copy(std::dynamic_pointer_cast<ControlNetModelImpl>(model->clone()));
  const ConditionInputs inputs(control_cases(), "sdxl");
  const Json run = Json::object();
  const auto expected = run_controlnet(model, run, inputs).mid_block_res_sample;
  expect_equal(run_controlnet(again, run, inputs).mid_block_res_sample, expected);
  expect_equal(run_controlnet(copy, run, inputs).mid_block_res_sample, expected);
}

TEST(ControlNetModel, UNetsWithoutACounterpartAreRefused) {
  UNet2DConditionModelConfig config{.down_block_types = {"CrossAttnDownBlock2D"},
                                    .up_block_types = {"CrossAttnUpBlock2D"},
                                    .block_out_channels = {4},
                                    .norm_num_groups = 2,
                                    .cross_attention_dim = 6,
                                    .attention_head_dim = 2};
  const auto refuse = [&](const std::string& part) {
    const UNet2DConditionModel unet(config);
    expect_throws_with<ConfigError>([&] { ControlNetModel::from_unet(unet); }, part);
  };
  const auto good = config;
  config.mid_block_type.reset();
  refuse("mid_block_type is null");
  config = good;
  config.layers_per_block = {2};
  refuse("layers_per_block of the UNet is [2]");
  config = good;
  config.cross_attention_dim = {6};
  refuse("cross_attention_dim of the UNet is [6]");
  config = good;
  config.dual_cross_attention = true;
  refuse("is missing");
  config = good;
  config.conv_in_kernel = 1;
  refuse("conv_in.weight");
}

TEST(ControlNetModel, WrongInputsAndConfigsAreRefused) {
  const auto model = make_controlnet("guess_mode");
  const auto sample = torch::randn({2, 2, 8, 8});
  const auto encoder = torch::randn({2, 5, 6});
  const auto image = torch::randn({2, 3, 32, 32});
  const auto refuse = [&](const Tensor& x, const Tensor& states, const Tensor& condition,
                          const ControlNetModelForwardOptions& options, const std::string& part) {
    expect_throws_with<TensorError>([&] { model->forward(x, 3, states, condition, options); }, part);
  };
  refuse(torch::randn({2, 3, 8, 8}), encoder, image, {}, "sample: expected [B, 2, H, W]");
  refuse(sample, torch::randn({2, 5, 7}), image, {}, "expected encoder_hidden_states [2, S, 6]");
  refuse(sample, encoder.to(torch::kDouble), image, {}, "encoder_hidden_states are float64");
  refuse(sample, encoder, {}, {}, "controlnet_cond: expected floating [2, 3, H, W]");
  refuse(sample, encoder, torch::randn({2, 1, 32, 32}), {},
         "controlnet_cond: expected floating [2, 3, H, W]");
  refuse(sample, encoder, torch::randn({2, 3, 64, 64}), {}, "does not fit the hidden states [2, 4, 8, 8]");
  refuse(sample, encoder, image, {.class_labels = torch::tensor({1, 2})}, "class_labels: expected none");
  refuse(sample, encoder, image, {.timestep_cond = torch::randn({2, 4})}, "timestep_cond: expected none");

  const auto refuse_config = [](const std::string& json, const std::string& part) {
    expect_throws_with<ConfigError>([&] { ControlNetModel::from_config(json); }, part);
  };
  refuse_config(R"({"controlnet_conditioning_channel_order": "gbr"})", "is \"gbr\"");
  refuse_config(R"({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"})", "UNetMidBlock2DSimpleCrossAttn");
  refuse_config(R"({"encoder_hid_dim": 4, "encoder_hid_dim_type": "image_proj"})", "image_proj");
  refuse_config(R"({"addition_embed_type": "image"})", "addition_embed_type is \"image\"");
  refuse_config(R"({"class_embed_type": "simple_projection"})", "simple_projection");
  refuse_config(R"({"conditioning_embedding_out_channels": []})", "conditioning_embedding_out_channels");
  refuse_config(R"({"num_attention_heads": [1, 2]})", "num_attention_heads has 2 elements");
}

}  // namespace
}  // namespace diffusers::test
