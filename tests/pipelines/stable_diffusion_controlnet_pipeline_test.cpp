// The ControlNet pipeline against what Python drew, with one net and with two.

#include <cmath>
#include <string>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/io/files.h>
#include <diffusers/models/controlnet.h>
#include <diffusers/models/multi_controlnet.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/stable_diffusion_controlnet_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/text/clip_text_model.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "pipelines/drawn.h"

namespace diffusers {
namespace {

using Control = StableDiffusionControlNetPipelineOptions;

StableDiffusionPipeline stable_for_control() {
  return StableDiffusionPipeline::from_pretrained(test::golden_path("tiny_stable_diffusion"));
}

ControlNetModel drawn_controlnet(uint64_t seed, StableDiffusionPipeline& stable) {
  manual_seed(seed);
  auto net = ControlNetModel::from_unet(stable.unet(), {.conditioning_embedding_out_channels = {8, 8}});
  test::move_zero_layers(net);
  return net;
}

ControlNetModel pooled_controlnet(StableDiffusionPipeline& stable) {
  ControlNetModelConfig config = drawn_controlnet(9, stable)->config();
  config.global_pool_conditions = true;
  manual_seed(9);
  ControlNetModel net(config);
  test::move_zero_layers(net);
  return net;
}

/// Two nets, or one of them.
struct ControlPipelines {
  StableDiffusionPipeline stable = stable_for_control();
  ControlNetModel first = drawn_controlnet(7, stable);
  ControlNetModel second = drawn_controlnet(8, stable);
  StableDiffusionControlNetPipeline one{
      stable.vae(), stable.text_encoder(), stable.tokenizer(), stable.unet(), first, stable.scheduler()};
  StableDiffusionControlNetPipeline two{stable.vae(),  stable.text_encoder(), stable.tokenizer(),
                                        stable.unet(), {first, second},       stable.scheduler()};
};

TEST(StableDiffusionControlNetPipeline, ImagesMatchDiffusers) {
  struct Case {
    const char* name;
    const char* scheduler;
    Control options;
  };
  const test::Golden& golden = test::pipelines_golden();
  const Tensor& image = golden["image"];
  const Case cases[] = {
      {"pndm", "", {.image = image, .negative_prompt = "a blue dog"}},
      {"unguided", "DDIMScheduler", {.image = image, .guidance_scale = 1.0}},
      {"guess", "DDIMScheduler", {.image = image, .guidance_scale = 4.0, .guess_mode = true}},
      {"guess_unguided", "DDIMScheduler", {.image = image, .guidance_scale = 1.0, .guess_mode = true}},
      {"part",
       "DDIMScheduler",
       {.image = image,
        .controlnet_conditioning_scale = 0.5,
        .control_guidance_start = 0.2,
        .control_guidance_end = 0.7}},
      {"none",
       "DDIMScheduler",
       {.image = image, .control_guidance_start = 0.05, .control_guidance_end = 0.1}},
      {"two_prompts",
       "DDIMScheduler",
       {.prompt = {"a red cat", "a blue, blue dog!"}, .image = golden["images"], .num_images_per_prompt = 2}},
      {"size", "DDIMScheduler", {.image = golden["odd"], .height = 24, .width = 17}},
      {"odd", "DDIMScheduler", {.image = golden["odd"]}},
  };
  ControlPipelines pipelines;
  for (const Case& c : cases) {
    StableDiffusionControlNetPipeline pipeline(pipelines.one.components());
    test::take_scheduler(pipeline, c.scheduler);
    test::expect_as_python(std::string("control_") + c.name, pipeline(test::five_steps(c.options)).images);
  }
}

TEST(StableDiffusionControlNetPipeline, ImagesOfTwoNetsMatchDiffusers) {
  ControlPipelines pipelines;
  const Tensor image = test::pipelines_golden()["image"];
  const Tensor other = test::pipelines_golden()["images"].slice(0, 0, 1);
  test::take_scheduler(pipelines.two, "DDIMScheduler");
  test::expect_as_python("control_two_nets",
                         pipelines
                             .two(test::five_steps(Control{.image = {image, other},
                                                           .controlnet_conditioning_scale = {0.7, 1.3},
                                                           .control_guidance_start = {0.0, 0.4},
                                                           .control_guidance_end = {0.6, 1.0}}))
                             .images);
  StableDiffusionControlNetPipeline again(pipelines.one.components());
  auto guess = StableDiffusionControlNetPipeline::from_pipe(
      again, {{"controlnet", MultiControlNetModel({pipelines.first, pipelines.second})}});
  test::take_scheduler(guess, "EulerDiscreteScheduler");
  test::expect_as_python(
      "control_two_guess",
      guess(test::five_steps(Control{.image = {image, other}, .guess_mode = true})).images);
}

TEST(StableDiffusionControlNetPipeline, PoolsTheResidualsOfANetThatSaysSo) {
  auto stable = stable_for_control();
  auto pipeline =
      StableDiffusionControlNetPipeline::from_pipe(stable, {{"controlnet", pooled_controlnet(stable)}});
  test::take_scheduler(pipeline, "DDIMScheduler");
  test::expect_as_python("control_pooled",
                         pipeline(test::five_steps(Control{.image = test::pipelines_golden()["image"],
                                                           .negative_prompt = "a blue dog"}))
                             .images);
}

TEST(StableDiffusionControlNetPipeline, SavesWhatPythonSaves) {
  ControlPipelines pipelines;
  test::expect_python_index(pipelines.two, "controlnets");
  const test::TemporaryFolder folder;
  pipelines.two.save_pretrained(folder / "two");
  EXPECT_TRUE(folder_exists(folder / "two/controlnet"));
  EXPECT_TRUE(folder_exists(folder / "two/controlnet_1"));
  EXPECT_FALSE(folder_exists(folder / "two/controlnet_2"));
  auto loaded = DiffusionPipeline::from_pretrained(folder / "two");
  auto& two = loaded->as<StableDiffusionControlNetPipeline>();
  EXPECT_EQ(two.controlnets().size(), 2U);
  const Tensor image = test::pipelines_golden()["image"];
  const Control options{.image = {image, image}};
  test::expect_equal(two(test::five_steps(options)).images, pipelines.two(test::five_steps(options)).images,
                     "two nets");

  test::take_scheduler(pipelines.one, "DDIMScheduler");
  test::expect_python_index(pipelines.one, "controlnet");
  pipelines.one.save_pretrained(folder / "one");
  auto one = StableDiffusionControlNetPipeline::from_pretrained(folder / "one");
  test::expect_as_python("control_odd",
                         one(test::five_steps(Control{.image = test::pipelines_golden()["odd"]})).images);
}

TEST(StableDiffusionControlNetPipeline, RefusesWhatCannotWork) {
  ControlPipelines pipelines;
  const Tensor image = at::zeros({1, 3, 16, 16});
  int64_t steps = 0;
  const auto refuses_of = [&](StableDiffusionControlNetPipeline& pipeline, Control options,
                              const char* message) {
    if (options.prompt.values().empty()) options.prompt = "a red cat";
    options.num_inference_steps = 2;
    options.callback_on_step_end = [&](int64_t, const Tensor&, Tensor&) { ++steps; };
    test::expect_throws_with<Error>([&] { pipeline(options); }, message);
  };
  const auto refuses = [&](const Control& options, const char* message) {
    refuses_of(pipelines.one, options, message);
  };
  refuses({}, "image has 0 tensors, expected 1, one for each ControlNet");
  refuses({.image = {image, image}}, "image has 2 tensors, expected 1");
  refuses_of(pipelines.two, {.image = image}, "image has 1 tensors, expected 2, one for each ControlNet");
  refuses_of(pipelines.two, {.image = {image, at::zeros({1, 3, 16, 8})}},
             "image[1] is 16 x 8 (height x width), expected the size of image[0], 16 x 16");
  refuses_of(pipelines.two, {.image = {image, Tensor()}}, "image[1] is an undefined tensor");
  refuses_of(pipelines.two, {.image = {image, image}, .controlnet_conditioning_scale = {1.0, 1.0, 1.0}},
             "controlnet_conditioning_scale has 3 values, expected one for all or one for each of 2");
  refuses_of(pipelines.two, {.image = {image, image}, .control_guidance_start = {0.0}},
             "control_guidance_start has 1 values");
  refuses({.image = at::zeros({1, 3, 16, 16}, at::kByte)}, "image is uint8");
  refuses({.image = 255 * at::ones({1, 3, 16, 16})}, "image has values from 255 to 255, expected [0, 1]");
  refuses({.image = at::full({1, 3, 16, 16}, std::nan(""))}, "expected [0, 1]");
  refuses({.image = at::zeros({1, 1, 16, 16})}, "expected 3 channels, as the ControlNet takes");
  refuses({.image = at::zeros({3, 3, 16, 16})}, "image has 3 images, expected one, or one for each of 1");
  refuses({.image = image, .controlnet_conditioning_scale = std::nan("")}, "expected a finite number");
  refuses({.image = image, .control_guidance_start = 0.5, .control_guidance_end = 0.5},
          "control_guidance_start and control_guidance_end are 0.5 and 0.5, expected 0 <= start < end <= 1");
  refuses({.image = image, .control_guidance_start = -0.1}, "expected 0 <= start < end <= 1");
  refuses({.image = image, .control_guidance_end = 1.1}, "expected 0 <= start < end <= 1");
  refuses({.image = image, .height = 1}, "expected sides of at least 2");
  refuses({.image = image, .height = -8}, "height and width are -8 and 0");
  refuses({.image = image, .latents = at::zeros({1, 4, 4, 4})}, "expected [1, 4, 8, 8]");
  EXPECT_EQ(steps, 0);

  test::expect_throws_with<ConfigError>(
      [&] { StableDiffusionControlNetPipeline::from_pipe(pipelines.stable); }, "\"controlnet\" is missing");
  const test::TemporaryFolder folder;
  pipelines.stable.save_pretrained(folder.path());
  test::expect_throws_with<FileError>(
      [&] { StableDiffusionControlNetPipeline::from_pretrained(folder.path()); },
      "component \"controlnet\" is missing");
}

}  // namespace
}  // namespace diffusers
