#include <string>
#include <vector>

#include <diffusers/models/unet_2d_condition.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/unet/condition_golden.h"

namespace diffusers::test {
namespace {

const ConditionCases& unet_cases() {
  static const ConditionCases cases("unet_2d_condition");
  return cases;
}

class UNet2DConditionModelGolden : public testing::TestWithParam<std::string> {};
class UNet2DConditionModelFloat64 : public testing::TestWithParam<std::string> {};

void compare_condition_with_python(const std::string& name, at::ScalarType dtype) {
  const auto& run = unet_cases().cases.at(name)["run"];
  const std::string key = dtype == at::kDouble ? name + ".float64" : name;
  const double tolerance = dtype == at::kDouble ? kFloat64Tolerance : kFloat32Tolerance;
  auto model = unet_cases().make<UNet2DConditionModel>(name);
  perturb(model);
  model->to(dtype);
  model->train(run.value("train", false));
  if (run.contains("freeu")) {
    const auto factors = run["freeu"].get<std::vector<double>>();
    model->enable_freeu(factors[0], factors[1], factors[2], factors[3]);
  }
  const ConditionInputs inputs(unet_cases(), key);
  const auto options = inputs.unet_options();
  const auto sample = inputs["sample"];
  const auto encoder = inputs["encoder_hidden_states"];
  torch::manual_seed(5);
  Tensor output;
  if (run.contains("scalar")) {
    const auto& scalar = run["scalar"];
    output = scalar.is_number_float()
                 ? model->forward(sample, scalar.get<double>(), encoder, options).sample
                 : model->forward(sample, scalar.get<int64_t>(), encoder, options).sample;
  } else {
    output = model->forward(sample, inputs["timesteps"], encoder, options).sample;
  }
  output.backward(pattern(output.sizes(), dtype));
  expect_close_to_scale(output, unet_cases().golden[key + "/output/sample"], tolerance, key + " output");
  expect_gradients(unet_cases(), key, inputs, model, tolerance);
}

TEST_P(UNet2DConditionModelGolden, ForwardAndBackwardMatchDiffusers) {
  compare_condition_with_python(GetParam(), at::kFloat);
}

TEST_P(UNet2DConditionModelFloat64, ForwardAndBackwardMatchDiffusers) {
  compare_condition_with_python(GetParam(), at::kDouble);
}

TEST_P(UNet2DConditionModelGolden, SameSeedGivesTheWeightsOfDiffusers) {
  expect_initial_weights(unet_cases().make<UNet2DConditionModel>(GetParam()),
                         unet_cases().cases.at(GetParam()));
}

TEST_P(UNet2DConditionModelGolden, ConfigIsWrittenAsInDiffusers) {
  EXPECT_EQ(unet_cases().make<UNet2DConditionModel>(GetParam())->config_json(),
            unet_cases().cases.at(GetParam())["config_text"].get<std::string>());
}

INSTANTIATE_TEST_SUITE_P(Cases, UNet2DConditionModelGolden, testing::ValuesIn(unet_cases().names()),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Cases, UNet2DConditionModelFloat64,
                         testing::ValuesIn(unet_cases().names(/*float64_only=*/true)),
                         [](const auto& info) { return info.param; });

TEST(UNet2DConditionModel, StableDiffusionHas859520964Parameters) {
  // Uninitialised memory is not accessed, so no pages are allocated for it.
  const layers::SkipInitGuard skip_init;
  const UNet2DConditionModel unet({.sample_size = 64, .cross_attention_dim = 768});
  EXPECT_EQ(unet->num_parameters(), 859520964);
  EXPECT_EQ(unet->class_name(), "UNet2DConditionModel");
}

TEST(UNet2DConditionModel, StableDiffusionXLHas2567463684Parameters) {
  const layers::SkipInitGuard skip_init;
  const UNet2DConditionModel unet(
      {.sample_size = 128,
       .down_block_types = {"DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"},
       .up_block_types = {"CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"},
       .block_out_channels = {320, 640, 1280},
       .cross_attention_dim = 2048,
       .transformer_layers_per_block = {1, 2, 10},
       .attention_head_dim = {5, 10, 20},
       .use_linear_projection = true,
       .addition_embed_type = "text_time",
       .addition_time_embed_dim = 256,
       .projection_class_embeddings_input_dim = 2816});
  EXPECT_EQ(unet->num_parameters(), 2567463684);
}

TEST(UNet2DConditionModel, GradientCheckpointingGivesTheSameValuesAndGradients) {
  for (const std::string name :
       {"sd2", "deepfloyd", "k_blocks", "dual_cross_attention", "adapter_residuals"}) {
    SCOPED_TRACE(name);
    auto model = unet_cases().make<UNet2DConditionModel>(name);
    perturb(model);
    const ConditionInputs inputs(unet_cases(), name);
    model->enable_gradient_checkpointing();
    const auto output = model
                            ->forward(inputs["sample"], inputs["timesteps"], inputs["encoder_hidden_states"],
                                      inputs.unet_options())
                            .sample;
    output.backward(pattern(output.sizes()));
    expect_close_to_scale(output, unet_cases().golden[name + "/output/sample"], kFloat32Tolerance, "output");
    expect_gradients(unet_cases(), name, inputs, model, kFloat32Tolerance);
  }
}

TEST(UNet2DConditionModel, SurvivesSavingLoadingAndCloning) {
  const TemporaryFolder folder;
  const auto model = unet_cases().make<UNet2DConditionModel>("sdxl");
  model->save_pretrained(folder / "unet");
  const auto again = UNet2DConditionModel::from_pretrained(folder.path(), {.subfolder = "unet"});
  EXPECT_EQ(again->config_json(), model->config_json());
  const UNet2DConditionModel copy(std::dynamic_pointer_cast<UNet2DConditionModelImpl>(model->clone()));
  const ConditionInputs inputs(unet_cases(), "sdxl");
  const torch::NoGradGuard no_grad;
  const auto run = [&](const UNet2DConditionModel& unet) {
    return unet
        ->forward(inputs["sample"], inputs["timesteps"], inputs["encoder_hidden_states"],
                  inputs.unet_options())
        .sample;
  };
  expect_equal(run(again), run(model));
  expect_equal(run(copy), run(model));
}

TEST(UNet2DConditionModel, OneEncoderMaskIsAsLeavingTheTokenOut) {
  const auto model = unet_cases().make<UNet2DConditionModel>("sd15");
  const torch::NoGradGuard no_grad;
  const auto sample = torch::randn({2, 4, 8, 8});
  const auto encoder = torch::randn({2, 5, 6});
  const auto mask = torch::tensor({{1, 1, 1, 0, 0}, {1, 1, 1, 0, 0}});
  const auto masked = model->forward(sample, 3, encoder, {.encoder_attention_mask = mask}).sample;
  expect_close(masked, model->forward(sample, 3, encoder.slice(1, 0, 3)).sample, 1e-5, 1e-5);
}

}  // namespace
}  // namespace diffusers::test
