#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/models/register_model.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/vq_model.h>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "core/json.h"
#include "support/golden.h"
#include "support/log_capture.h"

namespace diffusers::test {
namespace {

struct PlainDenoiserConfig {
  int64_t in_channels = 1;
  std::vector<int64_t> hidden = {4};
  double dropout = 0.0;
  std::optional<int64_t> num_class_embeds = std::nullopt;
  EnumChoice<TimeEmbeddingType> time_embedding_type = TimeEmbeddingType::kPositional;
};

void visit_fields(PlainDenoiserConfig& config, ConfigVisitor& visit) {
  visit("in_channels", config.in_channels);
  visit("hidden", config.hidden);
  visit("dropout", config.dropout);
  visit("num_class_embeds", config.num_class_embeds);
  visit("time_embedding_type", config.time_embedding_type);
}

class PlainDenoiserImpl : public ModelImpl<PlainDenoiserImpl, PlainDenoiserConfig> {
 public:
  static constexpr std::string_view kClassName = "PlainDenoiser";
  explicit PlainDenoiserImpl(PlainDenoiserConfig config = {}) : ModelImpl(std::move(config)) { reset(); }
  void reset() override {
    const layers::Conv2dOptions same{.kernel_size = 3, .padding = 1};
    conv_in = register_module("conv_in", layers::Conv2d(config().in_channels, config().hidden.at(0), same));
    conv_out = register_module("conv_out", layers::Conv2d(config().hidden.at(0), config().in_channels, same));
  }
  Tensor forward(const Tensor& sample, const Tensor& timesteps) const {
    return conv_out->forward(torch::silu(conv_in->forward(sample)) + timesteps.view({-1, 1, 1, 1}));
  }
  layers::Conv2d conv_in{nullptr};
  layers::Conv2d conv_out{nullptr};
};
using PlainDenoiser = ModelHolder<PlainDenoiserImpl, PlainDenoiserConfig>;

/// Another class under the same name.
class SecondDenoiserImpl : public ModelImpl<SecondDenoiserImpl, PlainDenoiserConfig> {
 public:
  static constexpr std::string_view kClassName = "PlainDenoiser";
  explicit SecondDenoiserImpl(PlainDenoiserConfig config = {}) : ModelImpl(std::move(config)) {}
  void reset() override {}
};
using SecondDenoiser = ModelHolder<SecondDenoiserImpl, PlainDenoiserConfig>;

TEST(RegisterModel, AModelOfAProgramIsSavedLoadedAndCloned) {
  const TemporaryFolder folder;
  torch::manual_seed(0);
  const PlainDenoiser model({.hidden = {6}, .time_embedding_type = "fourier"});
  const Json config = parse_json(model->config_json(), "config");
  EXPECT_EQ(config["_class_name"], "PlainDenoiser");
  EXPECT_EQ(config["hidden"], Json::array({6}));
  EXPECT_EQ(config["num_class_embeds"], Json(nullptr));
  EXPECT_EQ(config["time_embedding_type"], "fourier");

  model->save_pretrained(folder.path());
  const auto again = PlainDenoiser::from_pretrained(folder.path());
  EXPECT_EQ(again->config().hidden, std::vector<int64_t>{6});
  EXPECT_EQ(again->config_json(), model->config_json());
  EXPECT_FALSE(again->is_training());
  const PlainDenoiser copy(std::dynamic_pointer_cast<PlainDenoiserImpl>(model->clone()));
  const auto sample = torch::randn({2, 1, 4, 4});
  const auto times = torch::tensor({1, 5});
  expect_equal(again(sample, times), model(sample, times));
  expect_equal(copy(sample, times), model(sample, times));
}

TEST(RegisterModel, ItsConfigHasTheSemanticsOfThoseOfTheLibrary) {
  const LogCapture log;
  const auto model = PlainDenoiser::from_config(R"({"hidden": [2], "not_known": 1})");
  EXPECT_EQ(model->load_report().unknown_config_keys, std::vector<std::string>{"not_known"});
  EXPECT_EQ(parse_json(model->config_json(), "config")["not_known"], 1);
  ASSERT_EQ(log.messages().size(), 1U);
  EXPECT_NE(log.messages()[0].find("PlainDenoiser does not know these keys"), std::string::npos);
  expect_throws_with<ConfigError>([] { PlainDenoiser::from_config(R"({"in_channels": "three"})"); },
                                  "config: in_channels is \"three\", expected an integer");
  expect_throws_with<ConfigError>([] { PlainDenoiser::from_config(R"({"time_embedding_type": "cosine"})"); },
                                  "\"positional\" \"fourier\" \"learned\"");
  expect_throws_with<ConfigError>([] { PlainDenoiser::from_config(R"({"_class_name": "UNet2DModel"})"); },
                                  "this is the config of a UNet2DModel, expected that of a PlainDenoiser");
}

TEST(RegisterModel, MakesTheClassKnownByItsName) {
  const TemporaryFolder folder;
  PlainDenoiser({.hidden = {6}})->save_pretrained(folder.path());
  register_model<PlainDenoiser>();
  register_model<PlainDenoiser>();
  const auto names = registered_models();
  EXPECT_TRUE(std::is_sorted(names.begin(), names.end()));
  for (const char* name : {"AutoencoderKL", "AutoencoderTiny", "ControlNetModel", "PlainDenoiser",
                           "T2IAdapter", "UNet2DConditionModel", "UNet2DModel", "VQModel"})
    EXPECT_EQ(std::count(names.begin(), names.end(), name), 1) << name;

  const auto module = AutoModel::from_pretrained(folder.path());
  ASSERT_NE(module->as<PlainDenoiserImpl>(), nullptr);
  EXPECT_EQ(module->as<PlainDenoiserImpl>()->config().hidden, std::vector<int64_t>{6});
  const std::string json = read_text_file(folder / "config.json");
  EXPECT_NE(AutoModel::from_config(json)->as<PlainDenoiserImpl>(), nullptr);
  // The other classes recognise the registered class, and refuse its config.
  expect_throws_with<ConfigError>([&] { VQModel::from_config(json); },
                                  "this is the config of a PlainDenoiser, expected that of a VQModel");
  expect_throws_with<ConfigError>([] { register_model<SecondDenoiser>(); },
                                  "there is another class with the name \"PlainDenoiser\"");
}

TEST(AutoModel, MakesTheClassOfTheConfig) {
  const auto module = AutoModel::from_pretrained(golden_path(""), {.subfolder = "unet_2d_plain"});
  ASSERT_NE(module->as<UNet2DModelImpl>(), nullptr);
  EXPECT_FALSE(module->is_training());
}

TEST(AutoModel, RefusesClassesThatAreNotRegisteredAndListsThoseThatAre) {
  for (const std::string part : {"the class is \"UVit2DModel\"", "UNet2DConditionModel", "register_model"})
    expect_throws_with<ConfigError>([] { AutoModel::from_config(R"({"_class_name": "UVit2DModel"})"); },
                                    part);
  expect_throws_with<ConfigError>([] { AutoModel::from_config("{}"); }, "the class is \"\"");
  expect_throws_with<ConfigError>([] { AutoModel::from_config("[]"); }, "expected a JSON object");
  expect_throws_with<ConfigError>([] { AutoModel::from_config(R"({"_class_name": 3})"); },
                                  "_class_name is 3");
}

}  // namespace
}  // namespace diffusers::test
