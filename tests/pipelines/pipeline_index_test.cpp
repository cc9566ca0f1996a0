#include "pipelines/pipeline_index.h"

#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>

#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

PipelineComponents read(const std::string& folder) {
  return read_pipeline_index(folder, "DDPMPipeline", {"scheduler", "unet"});
}

TEST(PipelineIndex, ReadsWhatPythonWrote) {
  const PipelineComponents expected = {{"scheduler", "DDPMScheduler"}, {"unet", "UNet2DModel"}};
  EXPECT_EQ(read(test::golden_path("tiny_ddpm_pipeline")), expected);
}

TEST(PipelineIndex, WritesPythonsBytes) {
  const test::TemporaryFolder folder;
  write_pipeline_index(folder.path(), "DDPMPipeline",
                       {{"unet", "UNet2DModel"}, {"scheduler", "DDPMScheduler"}});
  EXPECT_EQ(read_text_file(folder / "model_index.json"),
            read_text_file(test::golden_path("tiny_ddpm_pipeline/model_index.json")));
}

TEST(PipelineIndex, NamesWhatIsWrong) {
  struct Case {
    const char* index;
    const char* message;
  };
  const Case cases[] = {
      {R"({"unet": ["diffusers", "UNet2DModel"]})", "component \"scheduler\" is missing"},
      {R"({"scheduler": ["diffusers", "DDPMScheduler"]})", "component \"unet\" is missing"},
      {R"({"unet": [null, null], "scheduler": ["diffusers", "DDPMScheduler"]})",
       "component \"unet\" is absent"},
      {R"({"unet": ["UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]})",
       "expected [library, class]"},
      {R"({"unet": [1, 2], "scheduler": ["diffusers", "DDPMScheduler"]})", "expected [library, class]"},
      {R"({"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"],
           "vqvae": ["diffusers", "VQModel"]})",
       "component \"vqvae\" (VQModel) is none of DDPMPipeline"},
      {R"({"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]})",
       "the folder of component \"scheduler\" (DDPMScheduler) is missing"},
      {"[]", "expected a JSON object"},
      {"{", "not valid JSON"},
  };
  for (const auto& [index, message] : cases) {
    const test::TemporaryFolder folder;
    write_file(index, folder / "model_index.json");
    test::expect_throws_with<FileError>([&] { read(folder.path()); }, message);
  }
  const test::TemporaryFolder empty;
  test::expect_throws_with<FileError>([&] { read(empty.path()); }, "has no model_index.json");
  test::expect_throws_with<FileError>([&] { read(empty / "nowhere"); }, "there is no folder");
}

TEST(PipelineIndex, AbsentComponentsThatNobodyNeedsAreFine) {
  const test::TemporaryFolder folder;
  create_folders(folder / "unet");
  create_folders(folder / "scheduler");
  write_file(R"({"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"],
                            "safety_checker": [null, null], "requires_safety_checker": false})",
             folder / "model_index.json");
  EXPECT_EQ(read(folder.path()).size(), 2U);
}

}  // namespace
}  // namespace diffusers
