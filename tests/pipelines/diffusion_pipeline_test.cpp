#include <string>
#include <type_traits>
#include <utility>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/ddim_pipeline.h>
#include <diffusers/pipelines/ddpm_pipeline.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_img2img_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/text/clip_text_model.h>
#include <diffusers/text/clip_tokenizer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers {
namespace {

static_assert(!std::is_copy_constructible_v<DDPMPipeline> && !std::is_copy_assignable_v<DDPMPipeline>);
static_assert(std::is_nothrow_move_constructible_v<DDPMPipeline> && std::is_move_assignable_v<DDPMPipeline>);

DDPMPipeline tiny_ddpm() { return DDPMPipeline::from_pretrained(test::golden_path("tiny_ddpm_pipeline")); }

StableDiffusionPipeline tiny_stable() {
  return StableDiffusionPipeline::from_pretrained(test::golden_path("tiny_stable_diffusion"));
}

Tensor drawn_by(DDPMPipeline& pipeline) {
  return pipeline({.batch_size = 2, .generator = make_generator(7), .num_inference_steps = 3}).images;
}

TEST(DiffusionPipeline, HasItsComponentsByName) {
  StableDiffusionPipeline pipeline = tiny_stable();
  std::vector<std::string> names;
  for (const auto& [name, component] : pipeline.components()) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"scheduler", "text_encoder", "tokenizer", "unet", "vae"}));
  EXPECT_EQ(pipeline.components().at("unet").class_name(), "UNet2DConditionModel");
  EXPECT_EQ(pipeline.components().at("tokenizer").class_name(), "CLIPTokenizer");
  EXPECT_EQ(pipeline.components().at("scheduler").class_name(), "PNDMScheduler");
  EXPECT_EQ(pipeline.component<AutoencoderKL>("vae").ptr(), pipeline.vae().ptr());
  EXPECT_EQ(&pipeline.component<Scheduler>("scheduler"), &pipeline.scheduler());
  test::expect_throws_with<ConfigError>(
      [&] { pipeline.component<AutoencoderKL>("vqvae"); },
      "StableDiffusionPipeline has no component \"vqvae\", it has: scheduler");
  test::expect_throws_with<ConfigError>([&] { pipeline.component<UNet2DModel>("vae"); },
                                        "the component is a");
}

TEST(DiffusionPipeline, IsMadeOfAMapOfComponents) {
  DDPMPipeline ddpm = tiny_ddpm();
  DDPMPipeline same(ddpm.components());
  EXPECT_EQ(same.unet().ptr(), ddpm.unet().ptr());
  EXPECT_NE(&same.scheduler(), &ddpm.scheduler());
  EXPECT_TRUE(drawn_by(same).equal(drawn_by(ddpm)));

  const PipelineComponents unet_alone{{"unet", ddpm.unet()}};
  test::expect_throws_with<ConfigError>([&] { DDPMPipeline{unet_alone}; },
                                        "DDPMPipeline: component \"scheduler\" is missing, found: unet");
  PipelineComponents components = ddpm.components();
  components["vae"] = ddpm.unet();
  test::expect_throws_with<ConfigError>([&] { DDPMPipeline{components}; },
                                        "DDPMPipeline has no component \"vae\"");
  components = ddpm.components();
  components["unet"] = PipelineComponent();
  test::expect_throws_with<ConfigError>([&] { DDPMPipeline{components}; }, "DDPMPipeline: the unet is empty");
  components["unet"] = tiny_stable().unet();
  test::expect_throws_with<ConfigError>(
      [&] { DDPMPipeline{components}; },
      "DDPMPipeline: component \"unet\" is a UNet2DConditionModel, expected a UNet2DModel");
}

TEST(DiffusionPipeline, FromPipeSharesTheModelsAndCopiesTheScheduler) {
  StableDiffusionPipeline pipeline = tiny_stable();
  pipeline.unet()->to(at::kDouble);
  auto redraw = StableDiffusionImg2ImgPipeline::from_pipe(pipeline);
  EXPECT_EQ(redraw.class_name(), "StableDiffusionImg2ImgPipeline");
  EXPECT_EQ(redraw.unet().ptr(), pipeline.unet().ptr());
  EXPECT_EQ(redraw.vae().ptr(), pipeline.vae().ptr());
  EXPECT_EQ(redraw.text_encoder().ptr(), pipeline.text_encoder().ptr());
  EXPECT_NE(&redraw.scheduler(), &pipeline.scheduler());
  EXPECT_EQ(redraw.scheduler().config_json(), pipeline.scheduler().config_json());
  // The dtype of the shared models does not change.
  EXPECT_EQ(pipeline.unet()->parameters().front().scalar_type(), at::kDouble);

  // Replacing a handle of one pipeline does not affect the other.
  UNet2DConditionModel other(pipeline.unet()->config());
  redraw.unet() = other;
  EXPECT_EQ(redraw.unet().ptr(), other.ptr());
  EXPECT_NE(pipeline.unet().ptr(), other.ptr());
  redraw.set_scheduler(DDIMScheduler());
  EXPECT_EQ(pipeline.scheduler().class_name(), "PNDMScheduler");
}

TEST(DiffusionPipeline, FromPipeDrawsAsAPipelineMadeByHand) {
  const test::Golden golden = test::load_golden("stable_diffusion.safetensors");
  auto redraw = StableDiffusionImg2ImgPipeline::from_pipe(tiny_stable());
  const Tensor images = redraw({.prompt = "a red cat",
                                .image = golden["image"],
                                .strength = 0.6,
                                .num_inference_steps = 5,
                                .negative_prompt = "a blue dog",
                                .generator = make_generator(7)})
                            .images;
  test::expect_close(images, golden["img2img_pndm"], 1e-4, 1e-4, "img2img_pndm");

  DDPMPipeline ddpm = tiny_ddpm();
  DDIMPipeline ddim = DDIMPipeline::from_pipe(ddpm);
  EXPECT_EQ(ddim.scheduler().class_name(), "DDIMScheduler");
  EXPECT_EQ(ddpm.scheduler().class_name(), "DDPMScheduler");
}

TEST(DiffusionPipeline, FromPipeTakesComponentsInPlaceOfThePipelines) {
  DDPMPipeline ddpm = tiny_ddpm();
  UNet2DModel other(ddpm.unet()->config());
  auto swapped = DDIMPipeline::from_pipe(
      ddpm, {{"unet", other}, {"scheduler", EulerDiscreteScheduler({.num_train_timesteps = 77})}});
  EXPECT_EQ(swapped.unet().ptr(), other.ptr());
  EXPECT_EQ(swapped.scheduler().class_name(), "DDIMScheduler");
  EXPECT_EQ(swapped.scheduler().num_train_timesteps(), 77);

  test::expect_throws_with<ConfigError>(
      [&] {
        DDIMPipeline::from_pipe(ddpm, {{"vae", other}});
      },
      "DDIMPipeline has no component \"vae\"");
  test::expect_throws_with<ConfigError>([&] { StableDiffusionPipeline::from_pipe(ddpm); },
                                        "StableDiffusionPipeline::from_pipe: component \"vae\" is missing: a "
                                        "DDPMPipeline does not have it; pass it "
                                        "as from_pipe(pipeline, {{\"vae\", ...}})");
  test::expect_throws_with<ConfigError>(
      [&] { DDPMPipeline::from_pipe(tiny_stable()); },
      "DDPMPipeline::from_pipe: component \"unet\" of the StableDiffusionPipeline is a UNet2DConditionModel, "
      "expected a UNet2DModel");
  // Components that the class does not have are left out.
  EXPECT_EQ(DDPMPipeline::from_pipe(tiny_stable(), {{"unet", other}}).components().size(), 2U);
}

TEST(DiffusionPipeline, ToConvertsAllModels) {
  StableDiffusionPipeline pipeline = tiny_stable();
  EXPECT_EQ(pipeline.dtype(), at::kFloat);
  EXPECT_EQ(pipeline.device(), at::Device(at::kCPU));
  const Tensor parameter = pipeline.unet()->parameters().front();
  EXPECT_EQ(&pipeline.to(at::kDouble), &pipeline);
  EXPECT_EQ(pipeline.dtype(), at::kDouble);
  for (const auto& [name, component] : pipeline.components()) {
    const auto model = component.module();
    if (model == nullptr) continue;
    for (const Tensor& tensor : model->parameters()) EXPECT_EQ(tensor.scalar_type(), at::kDouble) << name;
  }
  // The tensors keep their identity, so an optimizer that holds one has the moved tensor.
  EXPECT_EQ(parameter.scalar_type(), at::kDouble);
  const Tensor images =
      pipeline({.prompt = "a red cat", .num_inference_steps = 2, .generator = make_generator(7)}).images;
  EXPECT_EQ(images.scalar_type(), at::kDouble);
  test::expect_throws_with<ConfigError>([&] { pipeline.to(at::kLong); },
                                        "StableDiffusionPipeline: dtype is int64, expected a floating type");
  test::expect_throws_with<ConfigError>([&] { pipeline.to(at::kCPU, at::kInt); }, "dtype is int32");
  EXPECT_EQ(pipeline.dtype(), at::kDouble);
}

TEST(DiffusionPipeline, ToThereAndBackChangesNothing) {
  DDPMPipeline pipeline = tiny_ddpm();
  const Tensor before = drawn_by(pipeline);
  EXPECT_TRUE(drawn_by(pipeline.to(at::kCPU, at::kDouble).to(at::kFloat)).equal(before));
}

TEST(DiffusionPipeline, ToMovesGradientsToo) {
  DDPMPipeline pipeline = tiny_ddpm();
  Tensor parameter = pipeline.unet()->parameters().front();
  parameter.mutable_grad() = at::ones_like(parameter);
  pipeline.to(at::kDouble);
  EXPECT_EQ(parameter.grad().scalar_type(), at::kDouble);
  EXPECT_TRUE(parameter.requires_grad());
  (parameter * parameter).sum().backward();
  EXPECT_TRUE(parameter.grad().equal(1 + 2 * parameter.detach()));
}

TEST(DiffusionPipeline, ANewPipelineIsMovedInOneExpression) {
  auto pipeline =
      DDPMPipeline::from_pretrained(test::golden_path("tiny_ddpm_pipeline")).to(at::kCPU, at::kDouble);
  static_assert(std::is_same_v<decltype(pipeline), DDPMPipeline>);
  EXPECT_EQ(pipeline.dtype(), at::kDouble);
  std::unique_ptr<DiffusionPipeline> any =
      DiffusionPipeline::from_pretrained(test::golden_path("tiny_ddpm_pipeline"));
  any->to(at::kCPU).to(at::kBFloat16);
  EXPECT_EQ(any->dtype(), at::kBFloat16);
}

TEST(DiffusionPipeline, AsNamesTheClassThatItIsNot) {
  DDPMPipeline ddpm = tiny_ddpm();
  DiffusionPipeline& any = ddpm;
  EXPECT_EQ(&any.as<DDPMPipeline>(), &ddpm);
  test::expect_throws_with<ConfigError>([&] { any.as<DDIMPipeline>(); },
                                        "the pipeline is a DDPMPipeline, expected a diffusers::DDIMPipeline");
}

TEST(DiffusionPipeline, KeepsItsProgressBarConfig) {
  DDPMPipeline ddpm = tiny_ddpm();
  EXPECT_FALSE(ddpm.progress_bar_config().disable);
  ddpm.set_progress_bar_config({.disable = true, .desc = "Drawing"});
  EXPECT_TRUE(ddpm.progress_bar_config().disable);
  const DDPMPipeline moved = std::move(ddpm);
  EXPECT_EQ(moved.progress_bar_config().desc, "Drawing");
}

TEST(StableDiffusionPipeline, TakesPythonsNameOfAnOutputType) {
  StableDiffusionPipeline pipeline = tiny_stable();
  EXPECT_EQ(pipeline({.prompt = "a", .num_inference_steps = 1, .output_type = "latent"}).images.size(1), 4);
  EXPECT_EQ(pipeline({.prompt = "a", .num_inference_steps = 1, .output_type = "pt"}).images.size(1), 3);
  test::expect_throws_with<ConfigError>([&] { pipeline({.prompt = "a", .output_type = "pil"}); },
                                        "output_type");
}

}  // namespace
}  // namespace diffusers
