#include <functional>
#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/models/t2i_adapter.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/model_golden.h"

namespace diffusers::test {
namespace {

const Golden& adapter_golden() {
  static const Golden golden = load_golden("t2i_adapter.safetensors");
  return golden;
}

const Json& adapter_cases() {
  static const Json json = parse_json(read_text_file(golden_path("t2i_adapter.json")), "t2i_adapter.json");
  return json;
}

std::vector<std::string> adapter_case_names(bool float64_only = false) {
  std::vector<std::string> names;
  for (const auto& item : adapter_cases()["cases"].items())
    if (!float64_only || item.value()["run"].value("float64", false)) names.push_back(item.key());
  return names;
}

T2IAdapter make_adapter(const std::string& name) {
  const auto& entry = adapter_cases()["cases"].at(name);
  torch::manual_seed(entry["seed"].get<uint64_t>());
  return T2IAdapter::from_config(entry["config"].dump());
}

class T2IAdapterGolden : public testing::TestWithParam<std::string> {};
class T2IAdapterFloat64 : public testing::TestWithParam<std::string> {};

void compare_adapter_with_python(const std::string& name, at::ScalarType dtype) {
  const auto& golden = adapter_golden();
  const auto& entry = adapter_cases()["cases"].at(name);
  const bool wide = dtype == at::kDouble;
  const std::string key = (wide ? name + ".float64" : name) + "/";
  const double tolerance = wide ? kFloat64Tolerance : kFloat32Tolerance;
  auto model = make_adapter(name);
  EXPECT_EQ(model->total_downscale_factor(), entry["total_downscale_factor"].get<int64_t>());
  EXPECT_EQ(model->downscale_factor(), entry["downscale_factor"].get<int64_t>());
  model->to(dtype);
  auto x = golden[key + "x"].clone().requires_grad_(true);
  const std::vector<Tensor> features = model->forward(x);
  ASSERT_EQ(features.size(), entry["num_features"].get<std::size_t>());
  Tensor loss = torch::zeros({}, dtype);
  for (std::size_t i = 0; i < features.size(); ++i) {
    const auto feature = key + "feature_" + std::to_string(i);
    expect_close_to_scale(features[i], golden[feature], tolerance, feature);
    loss = loss + (features[i] * pattern(features[i].sizes(), dtype)).sum();
  }
  loss.backward();
  expect_close_to_scale(x.grad(), golden[key + "grad_x"], tolerance, key + "grad_x");
  expect_gradients(*model, golden, key, tolerance);
}

TEST_P(T2IAdapterGolden, ForwardAndBackwardMatchDiffusers) {
  compare_adapter_with_python(GetParam(), at::kFloat);
}

TEST_P(T2IAdapterFloat64, ForwardAndBackwardMatchDiffusers) {
  compare_adapter_with_python(GetParam(), at::kDouble);
}

TEST_P(T2IAdapterGolden, SameSeedGivesTheWeightsOfDiffusers) {
  expect_initial_weights(make_adapter(GetParam()), adapter_cases()["cases"].at(GetParam()));
}

TEST_P(T2IAdapterGolden, ConfigIsWrittenAsInDiffusers) {
  EXPECT_EQ(make_adapter(GetParam())->config_json(),
            adapter_cases()["cases"].at(GetParam())["config_text"].get<std::string>());
}

INSTANTIATE_TEST_SUITE_P(Cases, T2IAdapterGolden, testing::ValuesIn(adapter_case_names()),
                         [](const auto& info) { return info.param; });
INSTANTIATE_TEST_SUITE_P(Cases, T2IAdapterFloat64,
                         testing::ValuesIn(adapter_case_names(/*float64_only=*/true)),
                         [](const auto& info) { return info.param; });

TEST(T2IAdapter, TheDefaultConfigIsWrittenAsInDiffusers) {
  const layers::SkipInitGuard skip_init;
  EXPECT_EQ(T2IAdapter()->config_json(), adapter_cases()["default"].get<std::string>());
}

TEST(T2IAdapter, ImpossibleConfigsAndInputsAreRefused) {
  const T2IAdapterConfig good{.channels = {4, 6, 8, 8}, .num_res_blocks = 1, .downscale_factor = 2};
  const auto refuse = [&](const std::function<void(T2IAdapterConfig&)>& change, const std::string& part) {
    auto config = good;
    change(config);
    expect_throws_with<ConfigError>([&] { T2IAdapter model(config); }, part);
  };
  refuse([](auto& c) { c.in_channels = 0; }, "in_channels is 0");
  refuse([](auto& c) { c.channels = {}; }, "channels is empty");
  refuse([](auto& c) { c.channels[1] = 0; }, "channels is 0");
  refuse([](auto& c) { c.num_res_blocks = -1; }, "num_res_blocks is -1");
  refuse([](auto& c) { c.downscale_factor = 0; }, "downscale_factor is 0");
  refuse(
      [](auto& c) {
        c.adapter_type = T2IAdapterType::kFullAdapterXl;
        c.channels[3] = 12;
      },
      "full_adapter_xl");
  refuse(
      [](auto& c) {
        c.adapter_type = "light_adapter";
        c.channels[0] = 3;
      },
      "channels has 3");

  expect_throws_with<ConfigError>([] { T2IAdapter::from_config(R"({"adapter_type": "heavy"})"); },
                                  "adapter_type is \"heavy\"");

  const T2IAdapter model(good);
  expect_throws_with<TensorError>(
      [&] {
        model->forward(torch::zeros({1, 1, 8, 8}));
      },
      "expected [B, 3, H, W]");
  expect_throws_with<TensorError>(
      [&] {
        model->forward(torch::zeros({1, 3, 8, 9}));
      },
      "downscale_factor = 2");
}

MultiAdapter make_multi() {
  torch::manual_seed(40);
  std::vector<T2IAdapter> adapters;
  for (const int64_t in_channels : {3, 1, 3})
    adapters.push_back(T2IAdapter(
        {.in_channels = in_channels, .channels = {4, 6}, .num_res_blocks = 1, .downscale_factor = 2}));
  return MultiAdapter(adapters);
}

TEST(MultiAdapter, MatchesDiffusers) {
  const auto& golden = adapter_golden();
  auto model = make_multi();
  EXPECT_EQ(model->total_downscale_factor(), 4);
  EXPECT_EQ(model->downscale_factor(), 2);
  EXPECT_EQ(model->named_parameters().keys()[0], "adapters.0.adapter.conv_in.weight");
  const torch::NoGradGuard no_grad;
  for (const bool wide : {false, true}) {
    const auto dtype = wide ? at::kDouble : at::kFloat;
    model->to(dtype);
    std::vector<Tensor> xs;
    for (int i = 0; i < 3; ++i) xs.push_back(golden["multi/x_" + std::to_string(i)].to(dtype));
    const auto equal = model->forward(xs);
    const auto weighted = model->forward(xs, std::vector<double>{0.7, 0.2, -0.1});
    for (std::size_t i = 0; i < 2; ++i) {
      const auto suffix = (wide ? ".float64_" : "_") + std::to_string(i);
      const double tolerance = wide ? kFloat64Tolerance : kFloat32Tolerance;
      expect_close_to_scale(equal[i], golden["multi/equal" + suffix], tolerance, "equal" + suffix);
      expect_close_to_scale(weighted[i], golden["multi/weighted" + suffix], tolerance, "weighted" + suffix);
    }
  }
}

TEST(MultiAdapter, SurvivesSavingAndLoading) {
  const TemporaryFolder folder;
  const auto model = make_multi();
  model->save_pretrained(folder / "adapter");
  EXPECT_EQ(list_folder(folder.path()), (std::vector<std::string>{"adapter", "adapter_1", "adapter_2"}));
  const auto again = MultiAdapter::from_pretrained(folder / "adapter");
  const auto from_parent = MultiAdapter::from_pretrained(folder.path(), {.subfolder = "adapter"});
  ASSERT_EQ(again->adapters().size(), 3U);
  const auto expected = model->named_parameters();
  for (const auto& item : again->named_parameters())
    expect_equal(item.value(), expected[item.key()], item.key());
  EXPECT_EQ(from_parent->named_parameters().size(), expected.size());
}

TEST(MultiAdapter, AdaptersThatDoNotFitAreRefused) {
  const T2IAdapterConfig config{.channels = {4}, .num_res_blocks = 1, .downscale_factor = 2};
  auto other = config;
  other.downscale_factor = 4;
  expect_throws_with<ConfigError>([&] { MultiAdapter({T2IAdapter(config)}); }, "at least two");
  expect_throws_with<ConfigError>(
      [&] {
        MultiAdapter({T2IAdapter(config), T2IAdapter(other)});
      },
      "must downscale alike");
  const MultiAdapter model({T2IAdapter(config), T2IAdapter(config)});
  const auto x = torch::zeros({1, 3, 4, 4});
  expect_throws_with<TensorError>([&] { model->forward({x}); }, "1 images and 2 weights for 2 adapters");
  expect_throws_with<TensorError>([&] { model->forward({x, x}, std::vector<double>{1.0}); }, "1 weights");
}

}  // namespace
}  // namespace diffusers::test
