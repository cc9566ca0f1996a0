// Stable Diffusion XL from images, and as a refiner, against what Python drew.

#include <string>
#include <utility>
#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/pipelines/stable_diffusion_xl_img2img_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_xl_pipeline.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "pipelines/drawn.h"
#include "pipelines/xl_folder.h"

namespace diffusers {
namespace {

using XLImage = StableDiffusionXLImg2ImgPipelineOptions;
using test::all_sizes;
using test::five_steps;
using test::four_texts;

StableDiffusionXLImg2ImgPipeline tiny_xl_image(const std::string& scheduler = {}) {
  return test::xl_pipeline<StableDiffusionXLImg2ImgPipeline>(scheduler);
}

StableDiffusionXLImg2ImgPipeline tiny_refiner() {
  auto loaded = tiny_xl_image();
  PipelineComponents components = loaded.components();
  components.erase("text_encoder");
  components.erase("tokenizer");
  components.insert_or_assign("unet", test::refiner_unet(loaded));
  StableDiffusionXLImg2ImgPipeline refiner(std::move(components));
  refiner.set_requires_aesthetics_score(true);
  return refiner;
}

TEST(StableDiffusionXLImg2ImgPipeline, ImagesMatchDiffusers) {
  struct Case {
    const char* name;
    const char* scheduler;
    XLImage options;
  };
  const Tensor image = test::pipelines_golden()["image"];
  const Tensor latents = test::pipelines_golden()["xl_end"];
  const Case cases[] = {
      {"euler", "", four_texts(XLImage{.image = image, .strength = 0.6})},
      {"ddim", "DDIMScheduler", {.image = image, .strength = 1.0, .eta = 0.5}},
      {"sizes", "",
       all_sizes(XLImage{.prompt = {"a red cat", "a blue, blue dog!"},
                         .image = image,
                         .strength = 0.6,
                         .num_images_per_prompt = 2})},
      {"start", "", {.image = latents, .denoising_start = 0.6}},
      {"start_end", "", {.image = latents, .denoising_start = 0.3, .denoising_end = 0.7}},
      {"start_heun", "HeunDiscreteScheduler", {.image = latents, .denoising_start = 0.5}},
  };
  for (const auto& [name, scheduler, options] : cases) {
    auto pipeline = tiny_xl_image(scheduler);
    test::expect_as_python(std::string("xl_image_") + name, pipeline(five_steps(options)).images);
  }
}

TEST(StableDiffusionXLImg2ImgPipeline, ContinuesWhatTheBaseModelBegan) {
  auto base = test::xl_pipeline<StableDiffusionXLPipeline>();
  auto refiner = StableDiffusionXLImg2ImgPipeline::from_pipe(base);
  using Base = StableDiffusionXLPipelineOptions;
  const Tensor whole = base(five_steps(Base{})).images;
  const Tensor latents = base(five_steps(Base{.denoising_end = 0.6, .output_type = "latent"})).images;
  const Tensor image = refiner(five_steps(XLImage{.image = latents, .denoising_start = 0.6})).images;
  test::expect_close(image, whole, 1e-6, 1e-6, "continued");
}

TEST(StableDiffusionXLImg2ImgPipeline, EncodesWithTheStatisticsOfTheLatents) {
  auto pipeline = test::with_statistics<StableDiffusionXLImg2ImgPipeline>();
  const XLImage options{.image = test::pipelines_golden()["image"], .strength = 0.6};
  test::expect_as_python("xl_image_statistics", pipeline(five_steps(options)).images);
}

TEST(StableDiffusionXLImg2ImgPipeline, ARefinerTakesAnAestheticScore) {
  const XLImage options{
      .image = test::pipelines_golden()["image"], .strength = 0.6, .negative_prompt = "a blue dog"};
  auto refiner = tiny_refiner();
  test::expect_as_python("xl_refiner", refiner(five_steps(options)).images);
  XLImage scored{.image = options.image,
                 .strength = 0.6,
                 .crops_coords_top_left = {3, 5},
                 .negative_crops_coords_top_left = {1, 2},
                 .aesthetic_score = 3.0,
                 .negative_aesthetic_score = 1.0};
  test::expect_as_python("xl_refiner_score", refiner(five_steps(scored)).images);

  test::expect_python_index(refiner, "xl_refiner");
  const test::TemporaryFolder folder;
  refiner.save_pretrained(folder.path());
  auto again = DiffusionPipeline::from_pretrained(folder.path());
  auto& loaded = again->as<StableDiffusionXLImg2ImgPipeline>();
  EXPECT_TRUE(loaded.requires_aesthetics_score());
  test::expect_as_python("xl_refiner", loaded(five_steps(options)).images);
  test::expect_throws_with<ConfigError>([&] { loaded.text_encoder(); }, "the component is absent");
}

TEST(StableDiffusionXLImg2ImgPipeline, StartsFromNoisyLatents) {
  auto pipeline = tiny_xl_image("DDIMScheduler");
  const Tensor latents = test::pipelines_golden()["inpaint_latents"];
  // With strength 1 and DDIM, these are the latents that the text-to-image pipeline starts from.
  auto text = StableDiffusionXLPipeline::from_pipe(pipeline);
  const Tensor expected = text(five_steps(StableDiffusionXLPipelineOptions{.latents = latents})).images;
  const Tensor images = pipeline(five_steps(XLImage{.strength = 1.0, .latents = latents})).images;
  test::expect_close(images, expected, 1e-6, 1e-6, "latents");
}

TEST(StableDiffusionXLImg2ImgPipeline, EncodesInFloat32IfTheConfigAsksForIt) {
  auto pipeline = tiny_xl_image();
  const XLImage options{.image = test::pipelines_golden()["image"], .strength = 0.6, .output_type = "latent"};
  const Tensor expected = pipeline(five_steps(options)).images;
  pipeline.vae()->to(at::kBFloat16);
  test::expect_close(pipeline(five_steps(options)).images, expected, 5e-2, 5e-2, "rounded weights");
  EXPECT_EQ(pipeline.vae()->parameters().front().scalar_type(), at::kBFloat16);
}

TEST(StableDiffusionXLImg2ImgPipeline, SavesWhatPythonSaves) {
  test::expect_python_index(tiny_xl_image(), "xl_image");
}

TEST(StableDiffusionXLImg2ImgPipeline, RefusesWhatCannotWork) {
  auto pipeline = tiny_xl_image();
  auto refiner = tiny_refiner();
  const Tensor image = at::zeros({1, 3, 16, 16});
  int64_t steps = 0;
  const auto refuses = [&](XLImage options, const char* message,
                           StableDiffusionXLImg2ImgPipeline* other = nullptr) {
    options.prompt = "a red cat";
    options.num_inference_steps = 2;
    options.callback_on_step_end = [&](int64_t, const Tensor&, Tensor&) { ++steps; };
    test::expect_throws_with<Error>([&] { (other != nullptr ? *other : pipeline)(options); }, message);
  };
  refuses({}, "image and latents are both undefined");
  refuses({.image = image, .latents = at::zeros({1, 4, 8, 8})}, "image and latents are both given");
  refuses({.strength = 1.0, .latents = at::zeros({2, 4, 8, 8})},
          "latents is float32 [2, 4, 8, 8] on cpu, expected a floating");
  refuses({.image = image, .strength = 1.1}, "strength is 1.1");
  refuses({.image = image}, "strength is 0.3, which leaves none of 2 steps");
  refuses({.image = image, .strength = 0.5, .denoising_start = 0.5}, "strength and denoising_start");
  refuses({.image = image, .denoising_start = 0.0}, "denoising_start is 0, expected a number between");
  refuses({.image = image, .denoising_start = 0.9999}, "leaves none of 2 timesteps");
  refuses({.image = image, .denoising_start = 0.5, .denoising_end = 0.5}, "expected an earlier start");
  refuses({.image = 255 * at::ones({1, 3, 16, 16})}, "image has values from 255 to 255");
  refuses({.image = at::zeros({3, 3, 16, 16}), .strength = 1.0}, "image has 3 images");
  refuses({.image = image, .aesthetic_score = 5.0}, "has no requires_aesthetics_score");
  refuses({.image = image, .negative_crops_coords_top_left = {1, 1}},
          "has an effect only with requires_aesthetics_score");
  refuses({.image = image, .target_size = {16, 16}}, "takes an aesthetic score in its place", &refiner);
  refuses({.prompt_2 = "a", .image = image, .strength = 1.0}, "the pipeline has one text encoder", &refiner);
  refiner.set_requires_aesthetics_score(false);
  refuses({.image = image, .strength = 1.0},
          "projection_class_embeddings_input_dim is 28; a refiner needs requires_aesthetics_score", &refiner);
  EXPECT_EQ(steps, 0);
}

}  // namespace
}  // namespace diffusers
