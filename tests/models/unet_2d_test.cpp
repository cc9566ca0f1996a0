#include <string>

#include <diffusers/models/unet_2d.h>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/types.h>
#include <zlib.h>

#include "models/unet_2d_golden.h"

namespace diffusers::test {
namespace {

// Sums in another order: a few float32 roundings for each layer, relative to the largest element of a tensor,
// since an element near zero is a difference of larger numbers.
constexpr double kFloat32Tolerance = 1e-4;
constexpr double kFloat64Tolerance = 1e-9;

void expect_close_to_scale(const Tensor& actual, const Tensor& expected, double tolerance,
                           const std::string& label) {
  const double scale = expected.numel() > 0 ? expected.abs().max().item<double>() : 0;
  expect_close(actual, expected, tolerance, tolerance * scale, label);
}

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
  auto sample = golden[key + "sample"].clone().requires_grad_(true);
  UNet2DModelOptions options;
  if (golden.contains(key + "class_labels")) options.class_labels = golden[key + "class_labels"];
  torch::manual_seed(5);
  Tensor output;
  if (run.contains("scalar")) {
    const auto& scalar = run["scalar"];
    output = scalar.is_number_float() ? model->forward(sample, scalar.get<double>(), options).sample
                                      : model->forward(sample, scalar.get<int64_t>(), options).sample;
  } else {
    output = model->forward(sample, golden[key + "timesteps"], options).sample;
  }
  output.backward(pattern(output.sizes(), dtype));

  expect_close_to_scale(output, golden[key + "output"], tolerance, name + " output");
  expect_close_to_scale(sample.grad(), golden[key + "grad_sample"], tolerance,
                        name + " gradient of the sample");
  const auto sums = golden[key + "grad_sums"];
  int64_t index = 0;
  int64_t compared = 0;
  for (const auto& item : model->named_parameters()) {
    const auto row = sums[index++];
    if (item.key().ends_with("to_k.bias")) continue;
    const auto gradient =
        item.value().grad().defined() ? item.value().grad() : torch::zeros_like(item.value());
    const double scale = row[1].item<double>();
    EXPECT_NEAR(gradient.to(at::kDouble).sum().item<double>(), row[0].item<double>(),
                tolerance * scale + 1e-12)
        << name << " sum of the gradient of " << item.key();
    EXPECT_NEAR(gradient.to(at::kDouble).abs().sum().item<double>(), scale, tolerance * scale + 1e-12)
        << name << " size of the gradient of " << item.key();
    const auto stored = key + "grad/" + item.key();
    if (!golden.contains(stored)) continue;
    expect_close_to_scale(gradient, golden[stored], tolerance, name + " gradient of " + item.key());
    ++compared;
  }
  EXPECT_EQ(index, sums.size(0));
  EXPECT_GT(compared, 3);
}

TEST_P(UNet2DModelGolden, ForwardAndBackwardMatchDiffusers) { compare_with_python(GetParam(), at::kFloat); }

TEST_P(UNet2DModelFloat64, ForwardAndBackwardMatchDiffusers) { compare_with_python(GetParam(), at::kDouble); }

TEST_P(UNet2DModelGolden, SameSeedGivesTheWeightsOfDiffusers) {
  const auto& entry = unet_2d_cases()["cases"].at(GetParam());
  const auto model = make_case(GetParam());
  uLong bytes = 0;
  uLong layout = 0;
  for (const auto& item : model->named_parameters()) {
    const auto tensor = item.value().detach().contiguous();
    bytes =
        crc32(bytes, static_cast<const Bytef*>(tensor.const_data_ptr()), static_cast<uInt>(tensor.nbytes()));
    const auto line = fmt::format("{} {}\n", item.key(), shape_string(tensor.sizes()));
    layout = crc32(layout, reinterpret_cast<const Bytef*>(line.data()), static_cast<uInt>(line.size()));
  }
  EXPECT_EQ(layout, entry["layout_crc32"].get<uint64_t>()) << "names, shapes or their order";
  EXPECT_EQ(bytes, entry["weights_crc32"].get<uint64_t>()) << "bits of the weights";
  EXPECT_EQ(model->num_parameters(), entry["num_parameters"].get<int64_t>());
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
