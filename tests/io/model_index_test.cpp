#include "io/model_index.h"

#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

ModelIndex read_index(const std::string& folder) { return read_model_index(folder, "DDPMPipeline"); }

TEST(ModelIndex, ReadsWhatPythonWrote) {
  const ModelIndex ddpm = read_index(test::golden_path("tiny_ddpm_pipeline"));
  EXPECT_EQ(ddpm.class_name, "DDPMPipeline");
  const std::map<std::string, std::string> expected = {{"scheduler", "DDPMScheduler"},
                                                       {"unet", "UNet2DModel"}};
  EXPECT_EQ(ddpm.components, expected);
  EXPECT_TRUE(ddpm.settings.empty());

  const ModelIndex stable = read_index(test::golden_path("tiny_stable_diffusion"));
  EXPECT_EQ(stable.class_name, "StableDiffusionPipeline");
  EXPECT_EQ(stable.components.at("safety_checker"), "");
  EXPECT_EQ(stable.components.at("text_encoder"), "CLIPTextModel");
  EXPECT_FALSE(stable.settings.at("requires_safety_checker"));
}

TEST(ModelIndex, WritesPythonsBytes) {
  for (const char* name : {"tiny_ddpm_pipeline", "tiny_stable_diffusion"}) {
    const test::TemporaryFolder folder;
    write_model_index(read_index(test::golden_path(name)), folder.path());
    EXPECT_EQ(read_text_file(folder / "model_index.json"),
              read_text_file(test::golden_path(std::string(name) + "/model_index.json")));
  }
}

TEST(ModelIndex, ReadsAFileWithoutAClassName) {
  const test::TemporaryFolder folder;
  write_file(R"({"unet": ["diffusers", "UNet2DModel"], "scale": 1.5, "clip": true})",
             folder / "model_index.json");
  const ModelIndex index = read_index(folder.path());
  EXPECT_EQ(index.class_name, "");
  EXPECT_EQ(index.components.size(), 1U);
  EXPECT_EQ(index.settings.size(), 1U);
  EXPECT_TRUE(index.settings.at("clip"));
}

TEST(ModelIndex, NamesWhatIsWrong) {
  struct Case {
    const char* index;
    const char* message;
  };
  const Case cases[] = {
      {R"({"unet": ["UNet2DModel"]})", "expected [library, class]"},
      {R"({"unet": [1, 2]})", "expected [library, class]"},
      {R"({"unet": [null, "UNet2DModel"]})", "expected [library, class]"},
      {R"({"_class_name": 3})", "_class_name is 3"},
      {"[]", "expected a JSON object"},
      {"{", "not valid JSON"},
  };
  for (const auto& [index, message] : cases) {
    const test::TemporaryFolder folder;
    write_file(index, folder / "model_index.json");
    test::expect_throws_with<FileError>([&] { read_index(folder.path()); }, message);
  }
  const test::TemporaryFolder empty;
  test::expect_throws_with<FileError>([&] { read_index(empty.path()); }, "has no model_index.json");
  test::expect_throws_with<FileError>([&] { read_index(empty / "nowhere"); },
                                      "DDPMPipeline cannot be loaded: there is no folder");
}

}  // namespace
}  // namespace diffusers
