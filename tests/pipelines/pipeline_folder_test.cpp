// Checks of model_index.json against the components of a pipeline class.

#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/ddim_pipeline.h>
#include <diffusers/pipelines/ddpm_pipeline.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_img2img_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

/// A copy of the tiny DDPM pipeline with another index.
class IndexedFolder {
 public:
  explicit IndexedFolder(const std::string& index) {
    DDPMPipeline::from_pretrained(test::golden_path("tiny_ddpm_pipeline")).save_pretrained(folder_.path());
    write_file(index, folder_ / "model_index.json");
  }
  std::string path() const { return folder_.path(); }

 private:
  test::TemporaryFolder folder_;
};

TEST(PipelineFolder, NamesWhatIsWrong) {
  struct Case {
    const char* index;
    const char* message;
  };
  const Case cases[] = {
      {R"({"unet": ["diffusers", "UNet2DModel"]})",
       "component \"scheduler\" is missing, DDPMPipeline needs it"},
      {R"({"scheduler": ["diffusers", "DDPMScheduler"]})", "component \"unet\" is missing"},
      {R"({"unet": [null, null], "scheduler": ["diffusers", "DDPMScheduler"]})",
       "component \"unet\" is absent, DDPMPipeline needs it"},
      {R"({"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"],
           "vqvae": ["diffusers", "VQModel"]})",
       "component \"vqvae\" (VQModel) is none of DDPMPipeline, which has: unet, scheduler"},
      {R"({"unet": ["diffusers", "VQModel"], "scheduler": ["diffusers", "DDPMScheduler"]})",
       "component \"unet\" is a VQModel, DDPMPipeline takes a UNet2DModel"},
      {R"({"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "UNet2DModel"]})", "scheduler"},
  };
  for (const auto& [index, message] : cases) {
    const IndexedFolder folder(index);
    test::expect_throws_with<Error>([&] { DDPMPipeline::from_pretrained(folder.path()); }, message);
  }
  const IndexedFolder folder(
      R"({"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]})");
  remove_folder(folder.path() + "/unet");
  test::expect_throws_with<FileError>([&] { DDPMPipeline::from_pretrained(folder.path()); },
                                      "the folder of component \"unet\" (UNet2DModel) is missing");
}

TEST(PipelineFolder, MayListAbsentComponentsThatTheClassDoesNotTake) {
  const IndexedFolder folder(
      R"({"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"],
          "safety_checker": [null, null], "requires_safety_checker": false})");
  const DDPMPipeline pipeline = DDPMPipeline::from_pretrained(folder.path());
  EXPECT_EQ(pipeline.components().size(), 2U);
}

TEST(DiffusionPipeline, LoadsTheClassThatTheFolderNames) {
  const auto ddpm = DiffusionPipeline::from_pretrained(test::golden_path("tiny_ddpm_pipeline"));
  EXPECT_EQ(ddpm->class_name(), "DDPMPipeline");
  const test::Golden golden = test::load_golden("pipelines.safetensors");
  const Tensor images =
      ddpm->as<DDPMPipeline>()({.batch_size = 3, .generator = make_generator(7), .num_inference_steps = 6})
          .images;
  test::expect_close(images, golden["ddpm"], 1e-4, 1e-4, "ddpm");

  const auto stable = DiffusionPipeline::from_pretrained(test::golden_path("tiny_stable_diffusion"),
                                                         {.dtype = at::kBFloat16});
  EXPECT_EQ(stable->class_name(), "StableDiffusionPipeline");
  EXPECT_EQ(stable->dtype(), at::kBFloat16);
  EXPECT_EQ(stable->components().size(), 5U);
  EXPECT_EQ(stable->scheduler().class_name(), "PNDMScheduler");
}

TEST(DiffusionPipeline, LoadsEveryClassThatItSaves) {
  const test::TemporaryFolder folder;
  auto ddpm = DDPMPipeline::from_pretrained(test::golden_path("tiny_ddpm_pipeline"));
  DDIMPipeline::from_pipe(ddpm).save_pretrained(folder / "ddim");
  EXPECT_NO_THROW(DiffusionPipeline::from_pretrained(folder / "ddim")->as<DDIMPipeline>());
  const auto stable = StableDiffusionPipeline::from_pretrained(test::golden_path("tiny_stable_diffusion"));
  StableDiffusionImg2ImgPipeline::from_pipe(stable).save_pretrained(folder / "img2img");
  EXPECT_NO_THROW(
      DiffusionPipeline::from_pretrained(folder / "img2img")->as<StableDiffusionImg2ImgPipeline>());
}

TEST(DiffusionPipeline, NamesTheKnownClassesIfTheFolderNamesAnother) {
  for (const auto& [entry, message] :
       {std::pair{R"("_class_name": "PNDMPipeline", )",
                  "_class_name is \"PNDMPipeline\", expected one of: DDIMPipeline, DDPMPipeline, "},
        std::pair{"", "_class_name is \"\", expected one of: DDIMPipeline, DDPMPipeline, "}}) {
    const IndexedFolder folder(
        std::string("{") + entry +
        R"("unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]})");
    test::expect_throws_with<FileError>([&] { DiffusionPipeline::from_pretrained(folder.path()); }, message);
    test::expect_throws_with<FileError>([&] { DiffusionPipeline::from_pretrained(folder.path()); },
                                        "StableDiffusionControlNetPipeline, StableDiffusionImg2ImgPipeline, "
                                        "StableDiffusionInpaintPipeline, "
                                        "StableDiffusionInstructPix2PixPipeline, StableDiffusionPipeline, "
                                        "StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline");
    // `from_pretrained` of the class loads the folder, although the index names another class.
    EXPECT_NO_THROW(DDPMPipeline::from_pretrained(folder.path()));
  }
  const test::TemporaryFolder empty;
  test::expect_throws_with<FileError>([&] { DiffusionPipeline::from_pretrained(empty.path()); },
                                      "DiffusionPipeline cannot be loaded");
}

TEST(DiffusionPipeline, KeepsTheSettingsOfAFolder) {
  const test::TemporaryFolder folder;
  auto pipeline = StableDiffusionPipeline::from_pretrained(test::golden_path("tiny_stable_diffusion"));
  pipeline.save_pretrained(folder / "saved");
  const std::string path = folder / "saved/model_index.json";
  std::string index = read_text_file(path);
  const std::string key = "\"requires_safety_checker\": ";
  const auto place = index.find(key + "false");
  ASSERT_NE(place, std::string::npos);
  index.replace(place + key.size(), 5, "true");
  write_file(index, path);

  const auto loaded = StableDiffusionPipeline::from_pretrained(folder / "saved");
  loaded.save_pretrained(folder / "again");
  EXPECT_EQ(read_text_file(folder / "again/model_index.json"), index);
  StableDiffusionImg2ImgPipeline::from_pipe(loaded).save_pretrained(folder / "img2img");
  EXPECT_NE(read_text_file(folder / "img2img/model_index.json").find(key + "true"), std::string::npos);

  // If the setting stayed true without a safety checker, Python would warn.
  const std::string absent = "\"safety_checker\": [\n    null,\n    null\n  ]";
  const auto checker = index.find(absent);
  ASSERT_NE(checker, std::string::npos);
  index.replace(checker, absent.size(),
                R"("safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"])");
  write_file(index, path);
  StableDiffusionPipeline::from_pretrained(folder / "saved").save_pretrained(folder / "unchecked");
  EXPECT_NE(read_text_file(folder / "unchecked/model_index.json").find(key + "false"), std::string::npos);
}

}  // namespace
}  // namespace diffusers
