#include <memory>
#include <string>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/pipeline_component.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/text/clip_tokenizer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>

#include "pipelines/small_unet.h"
#include "support/golden.h"

namespace diffusers {
namespace {

UNet2DModel component_unet() { return UNet2DModel(test::small_unet_config()); }

TEST(PipelineComponent, SharesAModel) {
  const UNet2DModel unet = component_unet();
  const PipelineComponent component = unet;
  EXPECT_TRUE(component.has_value());
  EXPECT_EQ(component.class_name(), "UNet2DModel");
  EXPECT_EQ(component.module(), unet.ptr());
  PipelineComponent copy = component;
  EXPECT_EQ(copy.get<UNet2DModel>().ptr(), unet.ptr());
  // The copy has a separate handle.
  copy.get<UNet2DModel>() = component_unet();
  EXPECT_EQ(component.get<UNet2DModel>().ptr(), unet.ptr());
}

TEST(PipelineComponent, CopiesASchedulerOfAnyClass) {
  const DDIMScheduler ddim({.num_train_timesteps = 123});
  const PipelineComponent component = ddim;
  EXPECT_EQ(component.class_name(), "DDIMScheduler");
  EXPECT_EQ(component.module(), nullptr);
  PipelineComponent copy = component;
  EXPECT_NE(&copy.get<Scheduler>(), &component.get<Scheduler>());
  EXPECT_EQ(copy.get<Scheduler>().num_train_timesteps(), 123);
  copy = PipelineComponent(std::make_unique<DDPMScheduler>());
  EXPECT_EQ(copy.class_name(), "DDPMScheduler");
  EXPECT_FALSE(PipelineComponent(std::unique_ptr<Scheduler>()).has_value());
}

TEST(PipelineComponent, HoldsATokenizer) {
  const PipelineComponent component = CLIPTokenizer();
  EXPECT_EQ(component.class_name(), "CLIPTokenizer");
  EXPECT_EQ(component.module(), nullptr);
  EXPECT_EQ(component.get<CLIPTokenizer>().model_max_length(), 77);
}

TEST(PipelineComponent, MayBeAbsent) {
  const PipelineComponent absent;
  const PipelineComponent empty = UNet2DModel(nullptr);
  for (const PipelineComponent& component : {absent, empty}) {
    EXPECT_FALSE(component.has_value());
    EXPECT_EQ(component.class_name(), "");
    EXPECT_EQ(component.module(), nullptr);
    test::expect_throws_with<ConfigError>([&] { component.save_pretrained("nowhere"); },
                                          "nowhere: an absent component cannot be saved");
  }
  test::expect_throws_with<ConfigError>([&] { absent.get<Scheduler>(); },
                                        "the component is absent, expected a diffusers::Scheduler");
}

TEST(PipelineComponent, NamesBothTypesIfItIsOfAnother) {
  const PipelineComponent component = DDPMScheduler();
  test::expect_throws_with<ConfigError>(
      [&] { component.get<CLIPTokenizer>(); },
      "the component is a diffusers::Scheduler, expected a diffusers::CLIPTokenizer");
}

TEST(PipelineComponent, SavesWhatItsClassSaves) {
  const test::TemporaryFolder folder;
  PipelineComponent(component_unet()).save_pretrained(folder / "unet");
  EXPECT_TRUE(file_exists(folder / "unet/diffusion_pytorch_model.safetensors"));
  PipelineComponent(DDIMScheduler()).save_pretrained(folder / "scheduler");
  EXPECT_TRUE(file_exists(folder / "scheduler/scheduler_config.json"));
  PipelineComponent(
      CLIPTokenizer::from_pretrained(test::golden_path("tiny_stable_diffusion"), {.subfolder = "tokenizer"}))
      .save_pretrained(folder / "tokenizer");
  EXPECT_TRUE(file_exists(folder / "tokenizer/tokenizer_config.json"));
}

TEST(PipelineComponent, TakesAnyModuleAndSaysThatItCannotBeSaved) {
  const torch::nn::Linear linear(2, 3);
  const PipelineComponent component = linear;
  EXPECT_EQ(component.class_name(), "torch::nn::LinearImpl");
  EXPECT_EQ(component.module(), linear.ptr());
  test::expect_throws_with<ConfigError>([&] { component.save_pretrained("folder/linear"); },
                                        "folder/linear: a torch::nn::LinearImpl cannot be saved");
}

TEST(PipelineComponents, AreWrittenAsAList) {
  const UNet2DModel unet = component_unet();
  const PipelineComponents components{{"unet", unet}, {"scheduler", DDIMScheduler()}, {"nothing", {}}};
  EXPECT_EQ(components.at("unet").module(), unet.ptr());
  EXPECT_EQ(components.at("scheduler").class_name(), "DDIMScheduler");
  EXPECT_FALSE(components.at("nothing").has_value());
}

}  // namespace
}  // namespace diffusers
