// Inpainting against what Python drew, with UNets of 4 and of 9 channels.

#include <cmath>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/stable_diffusion_inpaint_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/pndm_scheduler.h>
#include <diffusers/text/clip_text_model.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "pipelines/drawn.h"
#include "support/log_capture.h"

namespace diffusers {
namespace {

using Inpaint = StableDiffusionInpaintPipelineOptions;

StableDiffusionInpaintPipeline inpaint_pipeline(int64_t channels, const std::string& scheduler = {}) {
  auto loaded = StableDiffusionInpaintPipeline::from_pretrained(test::golden_path("tiny_stable_diffusion"));
  if (channels != 4) {
    UNet2DConditionModelConfig config = loaded.unet()->config();
    config.in_channels = channels;
    manual_seed(6);
    loaded = StableDiffusionInpaintPipeline::from_pipe(loaded, {{"unet", UNet2DConditionModel(config)}});
  }
  test::take_scheduler(loaded, scheduler);
  return loaded;
}

Inpaint with_picture(Inpaint options) {
  options.image = test::pipelines_golden()["image"];
  options.mask_image = test::pipelines_golden()["mask"];
  return options;
}

TEST(StableDiffusionInpaintPipeline, ImagesMatchDiffusers) {
  struct Case {
    const char* name;
    const char* scheduler;
    Inpaint options;
  };
  const test::Golden& golden = test::pipelines_golden();
  const Case cases[] = {
      {"pndm", "", with_picture({.negative_prompt = "a blue dog"})},
      {"ddim_part", "DDIMScheduler", with_picture({.strength = 0.6, .eta = 0.5})},
      {"ddim_eta", "DDIMScheduler", with_picture({.eta = 0.5})},
      {"unguided", "DDIMScheduler", with_picture({.guidance_scale = 1.0})},
      {"euler", "EulerDiscreteScheduler", with_picture({.strength = 0.8})},
      {"heun", "HeunDiscreteScheduler", with_picture({.strength = 0.6})},
      {"two",
       "DDIMScheduler",
       {.prompt = {"a red cat", "a blue, blue dog!"},
        .image = golden["images"],
        .mask_image = golden["masks"],
        .num_images_per_prompt = 2}},
      {"odd", "DDIMScheduler", {.image = golden["odd"], .mask_image = golden["odd_mask"], .eta = 0.5}},
      {"size", "DDIMScheduler", with_picture({.height = 24, .width = 18})},
      {"latents", "DDIMScheduler", with_picture({.strength = 0.6, .latents = golden["inpaint_latents"]})},
  };
  for (const int64_t channels : {4, 9})
    for (const Case& c : cases) {
      auto pipeline = inpaint_pipeline(channels, c.scheduler);
      test::expect_as_python("inpaint" + std::to_string(channels) + "_" + c.name,
                             pipeline(test::five_steps(c.options)).images);
    }
  auto pipeline = inpaint_pipeline(9, "DDIMScheduler");
  const Inpaint options = with_picture({.masked_image_latents = golden["inpaint_latents"]});
  test::expect_as_python("inpaint9_masked_latents", pipeline(test::five_steps(options)).images);
}

TEST(StableDiffusionInpaintPipeline, KeepsTheLatentsOutsideOfTheMask) {
  auto pipeline = inpaint_pipeline(4, "DDIMScheduler");
  const Tensor image = at::randn({1, 4, 8, 8}, make_generator(1));
  Tensor mask = at::zeros({1, 1, 16, 16});
  mask.slice(3, 8).fill_(1);
  const Tensor latents =
      pipeline(test::five_steps(Inpaint{.image = image, .mask_image = mask, .output_type = "latent"})).images;
  test::expect_equal(latents.slice(3, 0, 4), image.slice(3, 0, 4), "kept");
  EXPECT_GT((latents - image).slice(3, 4).abs().min().item<double>(), 0);
}

TEST(StableDiffusionInpaintPipeline, TakesMasksOfEveryShapeThatPythonTakes) {
  auto pipeline = inpaint_pipeline(9, "DDIMScheduler");
  Inpaint options = with_picture({.prompt = "a red cat", .num_inference_steps = 2});
  const auto drawn_with = [&](const Tensor& mask) {
    options.mask_image = mask;
    options.generator = make_generator(7);
    return pipeline(options).images;
  };
  const Tensor mask = options.mask_image;
  const Tensor expected = drawn_with(mask);
  test::expect_equal(drawn_with(mask[0]), expected, "[B, H, W]");
  test::expect_equal(drawn_with(mask[0][0]), expected, "[H, W]");
  test::expect_equal(drawn_with(0.2 + 0.6 * mask), expected, "grey: 1 from 0.5");
}

TEST(StableDiffusionInpaintPipeline, SavesWhatPythonSaves) {
  const auto pipeline = inpaint_pipeline(4);
  test::expect_python_index(pipeline, "inpaint");
  const test::TemporaryFolder folder;
  inpaint_pipeline(9).save_pretrained(folder.path());
  auto again = DiffusionPipeline::from_pretrained(folder.path());
  const Inpaint options = with_picture({.negative_prompt = "a blue dog"});
  test::expect_as_python("inpaint9_pndm",
                         again->as<StableDiffusionInpaintPipeline>()(test::five_steps(options)).images);
}

TEST(StableDiffusionInpaintPipeline, CorrectsTheSchedulerAsPythonDoes) {
  auto pipeline = inpaint_pipeline(4);
  pipeline.set_scheduler(PNDMScheduler());
  const auto* pndm = dynamic_cast<const PNDMScheduler*>(&pipeline.scheduler());
  ASSERT_NE(pndm, nullptr);
  EXPECT_EQ(pndm->config().steps_offset, 1);
  EXPECT_TRUE(pndm->config().skip_prk_steps);
  pipeline.set_scheduler(DDIMScheduler());
  const auto* ddim = dynamic_cast<const DDIMScheduler*>(&pipeline.scheduler());
  ASSERT_NE(ddim, nullptr);
  EXPECT_EQ(ddim->config().steps_offset, 1);
  EXPECT_TRUE(ddim->config().clip_sample);  // this class leaves it
}

TEST(StableDiffusionInpaintPipeline, RefusesWhatCannotWork) {
  auto pipeline = inpaint_pipeline(4);
  auto masked = inpaint_pipeline(9);
  const Tensor image = at::zeros({1, 3, 16, 16});
  const Tensor mask = at::zeros({1, 1, 16, 16});
  const Tensor latents = at::zeros({1, 4, 8, 8});
  int64_t steps = 0;
  const auto refuses = [&](Inpaint options, const char* message,
                           StableDiffusionInpaintPipeline* other = nullptr) {
    if (!options.prompt_embeds.defined()) options.prompt = "a red cat";
    options.num_inference_steps = 2;
    options.callback_on_step_end = [&](int64_t, const Tensor&, Tensor&) { ++steps; };
    test::expect_throws_with<Error>([&] { (other != nullptr ? *other : pipeline)(options); }, message);
  };
  refuses({.mask_image = mask}, "image is an undefined tensor");
  refuses({.image = image}, "mask_image is an undefined tensor");
  refuses({.image = image, .mask_image = at::zeros({1, 1, 16, 8})},
          "mask_image is 16 x 8 (height x width), expected the size of the image, 16 x 16");
  refuses({.image = image, .mask_image = at::zeros({1, 3, 16, 16})}, "expected a floating [B, 1, H, W]");
  refuses({.image = image, .mask_image = at::zeros({1, 1, 16, 16}, at::kByte)}, "mask_image is uint8");
  refuses({.image = image, .mask_image = 255 * at::ones({1, 1, 16, 16})},
          "mask_image has values from 255 to 255, expected [0, 1]");
  refuses({.image = image, .mask_image = at::full({1, 1, 16, 16}, std::nan(""))}, "expected [0, 1]");
  refuses({.image = 255 * at::ones({1, 3, 16, 16}), .mask_image = mask},
          "image has values from 255 to 255, expected [0, 1]");
  refuses({.image = at::zeros({1, 3, 16, 16}, at::kByte), .mask_image = mask}, "image is uint8");
  refuses({.image = at::zeros({3, 3, 16, 16}), .mask_image = mask}, "image has 3 images");
  refuses({.image = image, .mask_image = at::zeros({3, 1, 16, 16})}, "mask_image has 3 images");
  refuses({.image = at::zeros({2, 3, 16, 16}), .mask_image = at::zeros({3, 1, 16, 16})},
          "mask_image has 3 masks and image 2 images");
  refuses({.image = image, .mask_image = mask, .strength = 1.1}, "strength is 1.1");
  refuses({.image = image, .mask_image = mask, .strength = 0.4}, "leaves none of 2 steps");
  refuses({.image = image, .mask_image = mask, .height = 15}, "expected multiples of 2, the vae's scale");
  refuses({.image = image, .mask_image = mask, .latents = at::zeros({1, 4, 4, 4})},
          "latents is float32 [1, 4, 4, 4] on cpu, expected [1, 4, 8, 8]");
  refuses({.image = image, .mask_image = mask, .masked_image_latents = latents},
          "masked_image_latents is given, but the UNet has 4 channels");
  refuses({.image = image, .mask_image = mask, .masked_image_latents = at::zeros({1, 4, 4, 4})},
          "masked_image_latents is float32 [1, 4, 4, 4] on cpu, expected a floating [B, 4, 8, 8]", &masked);
  refuses({.image = latents, .mask_image = mask}, "masked_image_latents is missing", &masked);
  refuses({.image = at::zeros({1, 4, 4, 4}), .mask_image = mask}, "latents of a size other than");
  auto wrong = inpaint_pipeline(5);
  refuses({.image = image, .mask_image = mask}, "the UNet has 5 input channels, expected 4 (latents) or 9",
          &wrong);
  EXPECT_EQ(steps, 0);
}

TEST(StableDiffusionInpaintPipeline, SlicesAndTilesTheAutoencoder) {
  auto pipeline = inpaint_pipeline(4, "DDIMScheduler");
  pipeline.enable_vae_slicing();
  EXPECT_TRUE(pipeline.vae()->use_slicing);
  test::expect_as_python("inpaint4_two",
                         pipeline(test::five_steps(Inpaint{.prompt = {"a red cat", "a blue, blue dog!"},
                                                           .image = test::pipelines_golden()["images"],
                                                           .mask_image = test::pipelines_golden()["masks"],
                                                           .num_images_per_prompt = 2}))
                             .images);
  pipeline.disable_vae_slicing();
  pipeline.enable_vae_tiling();
  EXPECT_FALSE(pipeline.vae()->use_slicing);
  EXPECT_TRUE(pipeline.vae()->use_tiling);
  pipeline.disable_vae_tiling();
  EXPECT_FALSE(pipeline.vae()->use_tiling);
}

}  // namespace
}  // namespace diffusers
