// A model class refuses the config of another class.

#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/autoencoder_tiny.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/t2i_adapter.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/models/vq_model.h>
#include <diffusers/text/clip_text_model.h>

#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"
#include "support/log_capture.h"

namespace diffusers {
namespace {

/// Returns a config with only the class name.
std::string config_of(const std::string& class_name) {
  if (class_name.starts_with("CLIP") || class_name.starts_with("T5"))
    return R"({"architectures": [")" + class_name + R"("], "model_type": "clip_text_model"})";
  return R"({"_class_name": ")" + class_name + "\"}";
}

const std::vector<std::string> kModelClasses{
    "AutoencoderKL", "AutoencoderTiny", "CLIPTextModel", "CLIPTextModelWithProjection", "ControlNetModel",
    "MultiAdapter",  "T2IAdapter",      "UNet2DModel",   "UNet2DConditionModel",        "VQModel"};
/// Classes that only Python has, and names that are not models.
const std::vector<std::string> kOtherClasses{
    "AutoencoderDC",           "DDIMScheduler",   "CLIPVisionModel",   "T5EncoderModel",
    "StableDiffusionPipeline", "UNetMotionModel", "LearnedLogVariance"};

template <class Model>
class EveryModelClass : public testing::Test {
 protected:
  /// Checks that `from_config` and `from_pretrained` throw for `json`, with a message that contains all of
  /// `parts`. The message of `from_pretrained` also names the folder.
  void expect_refused(const std::string& json, const std::vector<std::string>& parts) {
    const test::TemporaryFolder folder;
    create_folders(folder / "inner");
    write_file(json, folder / "inner/config.json");
    for (const std::string& part : parts) {
      test::expect_throws_with<ConfigError>([&] { Model::from_config(json); }, part);
      test::expect_throws_with<ConfigError>(
          [&] { Model::from_pretrained(folder.path(), {.subfolder = "inner"}); }, part);
    }
    test::expect_throws_with<ConfigError>(
        [&] { Model::from_pretrained(folder.path(), {.subfolder = "inner"}); }, folder / "inner");
  }
};

struct ClassNames {
  template <class Model>
  static std::string GetName(int) {
    return Model::ContainedType::class_name();
  }
};

using ModelClasses =
    testing::Types<AutoencoderKL, AutoencoderTiny, CLIPTextModel, CLIPTextModelWithProjection,
                   ControlNetModel, T2IAdapter, UNet2DModel, UNet2DConditionModel, VQModel>;
TYPED_TEST_SUITE(EveryModelClass, ModelClasses, ClassNames);

TYPED_TEST(EveryModelClass, RefusesTheConfigsOfOthers) {
  const std::string own = TypeParam::ContainedType::class_name();
  std::vector<std::string> others = kModelClasses;
  others.insert(others.end(), kOtherClasses.begin(), kOtherClasses.end());
  for (const std::string& other : others) {
    // As in transformers, each of CLIP's text encoders accepts the config of the other.
    const bool is_clip = own.starts_with("CLIPText") && other.starts_with("CLIPText");
    if (other == own || is_clip) continue;
    this->expect_refused(config_of(other), {"this is the config of a " + other,
                                            own.starts_with("CLIPText") ? "CLIPTextModel" : own});
  }
}

TYPED_TEST(EveryModelClass, RefusesAClassThatIsNoName) {
  for (const char* value : {"7", "null", "[\"UNet2DModel\"]", "{}", "true"})
    this->expect_refused(std::string(R"({"_class_name": )") + value + "}",
                         {std::string("_class_name is ") + value});
}

TEST(ModelClass, AnUnknownNameWarnsOnce) {
  const test::LogCapture log;
  for (int i = 0; i < 2; ++i) {
    const VQModel model = VQModel::from_config(R"({"_class_name": "VQModelOfMine"})");
    EXPECT_EQ(parse_json(model->config_json(), "config")["_class_name"], "VQModel");
  }
  ASSERT_EQ(log.messages().size(), 1U);
  EXPECT_EQ(log.messages().front(), "config: written for \"VQModelOfMine\", loaded as VQModel");
}

TEST(ModelClass, AConfigWithoutAClassIsTaken) {
  const test::LogCapture log;
  VQModel::from_config("{}");
  EXPECT_TRUE(log.messages().empty());
}

TEST(ModelClass, ClipTextEncodersReadTheConfigsOfEachOther) {
  const test::LogCapture log;
  Json config = parse_json(read_text_file(test::golden_path("clip_text_plain/config.json")), "config");
  for (const char* found : {"CLIPTextModel", "CLIPTextModelWithProjection"}) {
    config["architectures"] = {found};
    CLIPTextModel::from_config(config.dump());
    CLIPTextModelWithProjection::from_config(config.dump());
  }
  EXPECT_TRUE(log.messages().empty());
}

TEST(ModelClass, ClipTextEncodersRefuseTheTypesOfOtherModels) {
  for (const char* type : {"clip_vision_model", "t5", "clip"})
    test::expect_throws_with<ConfigError>(
        [&] { CLIPTextModel::from_config(std::string(R"({"model_type": ")") + type + "\"}"); }, type);
  test::expect_throws_with<ConfigError>([&] { CLIPTextModel::from_config(R"({"model_type": 3})"); },
                                        "model_type is 3");
}

}  // namespace
}  // namespace diffusers
