#include <map>
#include <string>

#include <diffusers/models/unet_2d.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/unet/unet_2d_golden.h"

namespace diffusers::test {
namespace {

class UNet2DModelGolden : public testing::TestWithParam<std::string> {};
class UNet2DModelFloat64 : public testing::TestWithParam<std::string> {};

void compare_with_python(const std::string& name, at::ScalarType dtype) {
  const auto& golden = unet_2d_golden();
  const auto& entry = unet_2d_cases()["cases"].at(name);
  const auto& run = entry["run"];
  const bool wide = dtype == at::kDouble;
  const std::string key = (wide ? name + ".float64" : name) + "/";
  const double tolerance = wide ? kFloat64Tolerance : kFloat32Tolerance;

  auto model = make_case(name);
  perturb(model);
  model->to(dtype);
  model->train(run.value("train", false));
  std::map<std::string, Tensor> inputs;
  for (const std::string input : {"sample", "timesteps", "class_labels"})
    if (golden.contains(key + input))
      inputs[input] = golden[key + input].clone().requires_grad_(golden[key + input].is_floating_point());
  const Tensor sample = inputs.at("sample");
  const UNet2DModelForwardOptions options{.class_labels = inputs["class_labels"]};
  torch::manual_seed(5);
  Tensor output;
  if (run.contains("scalar")) {
    const auto& scalar = run["scalar"];
    output = scalar.is_number_float() ? model->forward(sample, scalar.get<double>(), options).sample
                                      : model->forward(sample, scalar.get<int64_t>(), options).sample;
  } else {
    output = model->forward(sample, inputs.at("timesteps"), options).sample;
  }
  output.backward(pattern(output.sizes(), dtype));

  expect_close_to_scale(output, golden[key + "output"], tolerance, name + " output");
  for (const auto& [input, tensor] : inputs) {
    const bool has_gradient = tensor.defined() && tensor.grad().defined();
    ASSERT_EQ(has_gradient, golden.contains(key + "grad_" + input)) << key << input;
    if (has_gradient)
      expect_close_to_scale(tensor.grad(), golden[key + "grad_" + input], tolerance,
                            name + " gradient of " + input);
  }
  expect_gradients(*model, golden, key, tolerance);
}

TEST_P(UNet2DModelGolden, ForwardAndBackwardMatchDiffusers) { compare_with_python(GetParam(), at::kFloat); }

TEST_P(UNet2DModelFloat64, ForwardAndBackwardMatchDiffusers) { compare_with_python(GetParam(), at::kDouble); }

TEST_P(UNet2DModelGolden, SameSeedGivesTheWeightsOfDiffusers) {
  expect_initial_weights(make_case(GetParam()), unet_2d_cases()["cases"].at(GetParam()));
}

TEST_P(UNet2DModelGolden, ConfigIsWrittenAsInDiffusers) {
  const auto& entry = unet_2d_cases()["cases"].at(GetParam());
  EXPECT_EQ(make_case(GetParam())->config_json(), entry["config_text"].get<std::string>());
}

INSTANTIATE_TEST_SUITE_P(Cases, UNet2DModelGolden, testing::ValuesIn(unet_2d_case_names()),
                         [](const auto& info) { return info.param; });

INSTANTIATE_TEST_SUITE_P(Cases, UNet2DModelFloat64,
                         testing::ValuesIn(unet_2d_case_names(/*float64_only=*/true)),
                         [](const auto& info) { return info.param; });

TEST(UNet2DModel, TheConfigOfTheDesignHas1707009Parameters) {
  UNet2DModel unet({.sample_size = 28,
                    .in_channels = 1,
                    .out_channels = 1,
                    .down_block_types = {"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"},
                    .up_block_types = {"AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"},
                    .block_out_channels = {32, 64, 64},
                    .layers_per_block = 2});
  EXPECT_EQ(unet->num_parameters(), 1707009);
  EXPECT_EQ(unet->class_name(), "UNet2DModel");
  EXPECT_EQ(unet->config().sample_size, 28);
  EXPECT_EQ(unet->forward(torch::randn({2, 1, 28, 28}), 3).sample.sizes(), (at::IntArrayRef{2, 1, 28, 28}));
}

TEST(UNet2DModel, TimestepsMayBeScalarsZeroDimensionalOrOneForEachSample) {
  const auto model = make_case("plain");
  const torch::NoGradGuard no_grad;
  const auto sample = torch::randn({2, 1, 8, 8});
  const auto expected = model->forward(sample, torch::tensor({7, 7})).sample;
  expect_equal(model->forward(sample, 7).sample, expected, "int");
  expect_equal(model->forward(sample, int64_t{7}).sample, expected, "int64");
  expect_equal(model->forward(sample, 7.0).sample, expected, "double");
  expect_equal(model->forward(sample, torch::tensor(7)).sample, expected, "0-dim");
  expect_equal(model->forward(sample, torch::tensor({7})).sample, expected, "[1]");
  expect_equal(model->forward(sample, torch::tensor({7.0, 7.0})).sample, expected, "floating");
  expect_equal(model->forward(sample, torch::tensor({7, 7}, torch::kInt32)).sample, expected, "int32");
}

TEST(UNet2DModel, EnumFieldsTakeEnumeratorsAndStrings) {
  UNet2DModelConfig config{.time_embedding_type = "fourier", .class_embed_type = "timestep"};
  EXPECT_EQ(config.time_embedding_type, TimeEmbeddingType::kFourier);
  EXPECT_EQ(config.class_embed_type, ClassEmbedType::kTimestep);
  config.time_embedding_type = TimeEmbeddingType::kLearned;
  EXPECT_EQ(config.time_embedding_type, "learned");
}

TEST(UNet2DModel, AnEmptyHolderCanBeAssignedLater) {
  UNet2DModel model(nullptr);
  EXPECT_TRUE(model.is_empty());
  model = make_case("plain");
  EXPECT_FALSE(model.is_empty());
}

}  // namespace
}  // namespace diffusers::test
