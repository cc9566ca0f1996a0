// StableDiffusionInstructPix2PixPipeline against Python's class, and what it refuses.

#include <limits>
#include <string>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/unet_2d_condition.h>
#include <diffusers/pipelines/stable_diffusion_instruct_pix2pix_pipeline.h>
#include <diffusers/pipelines/stable_diffusion_pipeline.h>
#include <diffusers/text/clip_text_model.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"

namespace diffusers::test {
namespace {

using EditOptions = StableDiffusionInstructPix2PixPipelineOptions;

/// The tiny models with a UNet of 8 input channels and Python's weights.
StableDiffusionInstructPix2PixPipeline editing_pipeline() {
  auto plain = StableDiffusionPipeline::from_pretrained(golden_path("tiny_stable_diffusion"));
  UNet2DConditionModelConfig config = plain.unet()->config();
  config.in_channels = 8;
  manual_seed(4);
  UNet2DConditionModel unet(config);
  unet->eval();
  StableDiffusionInstructPix2PixPipeline pipeline(plain.vae(), plain.text_encoder(), plain.tokenizer(), unet,
                                                  plain.scheduler());
  pipeline.set_progress_bar_config({.disable = true});
  return pipeline;
}

Tensor images_to_edit() {
  return load_golden("text_to_image.safetensors")["conditioning_images"].slice(0, 0, 2);
}

EditOptions three_steps(EditOptions options) {
  options.num_inference_steps = 3;
  options.generator = make_generator(3);
  return options;
}

TEST(StableDiffusionInstructPix2PixPipeline, ImagesMatchDiffusers) {
  const auto golden = load_golden("fine_tuning.safetensors");
  auto pipeline = editing_pipeline();
  const Tensor images = images_to_edit();
  const std::vector<std::string> both = {"a red cat", "a blue dog"};
  const std::vector<std::string> negative = {"dog", ""};
  const std::vector<std::pair<std::string, EditOptions>> cases = {
      {"default", {.prompt = "a red cat", .image = images[0]}},
      {"scales",
       {.prompt = both,
        .image = images,
        .guidance_scale = 3.0,
        .image_guidance_scale = 2.0,
        .negative_prompt = negative}},
      {"repeated", {.prompt = both, .image = images, .num_images_per_prompt = 2}},
      {"unguided", {.prompt = "a red cat", .image = images[0], .image_guidance_scale = 0.5}}};
  for (const auto& [name, options] : cases)
    expect_close(pipeline(three_steps(options)).images, golden["edit." + name], 1e-4, 1e-4, name);
}

TEST(StableDiffusionInstructPix2PixPipeline, TakesEmbeddingsAndLatents) {
  auto pipeline = editing_pipeline();
  const Tensor images = images_to_edit().slice(0, 0, 1);
  const Tensor expected = pipeline(three_steps({.prompt = "a red cat", .image = images})).images;
  const at::NoGradGuard no_grad;
  const auto states = [&](const std::string& text) {
    const BatchEncoding tokens =
        pipeline.tokenizer()(text, {.padding = Padding::kMaxLength, .truncation = true});
    return pipeline.text_encoder()->forward(tokens.input_ids).last_hidden_state;
  };
  const Tensor latents = pipeline.vae()->encode(images * 2 - 1).latent_dist.mode();
  const Tensor noise = at::randn(latents.sizes(), make_generator(3));
  expect_close(pipeline(three_steps({.image = latents,
                                     .latents = noise,
                                     .prompt_embeds = states("a red cat"),
                                     .negative_prompt_embeds = states("")}))
                   .images,
               expected, 1e-4, 1e-4);
  EXPECT_EQ(
      pipeline(three_steps({.prompt = "a red cat", .image = images, .output_type = "latent"})).images.size(1),
      4);
}

TEST(StableDiffusionInstructPix2PixPipeline, IsLoadedByTheClassOfItsFolder) {
  const TemporaryFolder folder;
  auto pipeline = editing_pipeline();
  pipeline.save_pretrained(folder.path());
  const auto loaded = DiffusionPipeline::from_pretrained(folder.path());
  loaded->set_progress_bar_config({.disable = true});
  const EditOptions options = three_steps({.prompt = "a red cat", .image = images_to_edit()[0]});
  const Tensor image = loaded->as<StableDiffusionInstructPix2PixPipeline>()(options).images;
  expect_equal(pipeline(three_steps({.prompt = "a red cat", .image = images_to_edit()[0]})).images, image,
               "image");
}

TEST(StableDiffusionInstructPix2PixPipeline, WhatDoesNotFitIsNamed) {
  auto pipeline = editing_pipeline();
  const Tensor images = images_to_edit();
  const auto draw = [&](const EditOptions& options) { pipeline(three_steps(options)); };
  expect_throws_with<TensorError>([&] { draw({.prompt = "a cat"}); }, "image");
  expect_throws_with<ConfigError>([&] { draw({.image = images}); }, "neither prompt nor prompt_embeds");
  expect_throws_with<TensorError>([&] { draw({.prompt = "a cat", .image = images}); }, "image");
  expect_throws_with<ConfigError>(
      [&] {
        draw({.prompt = "a cat",
              .image = images[0],
              .guidance_scale = std::numeric_limits<double>::quiet_NaN()});
      },
      "guidance_scale is nan");
  expect_throws_with<ConfigError>(
      [&] {
        draw({.prompt = "a cat",
              .image = images[0],
              .image_guidance_scale = std::numeric_limits<double>::infinity()});
      },
      "image_guidance_scale is inf");
  expect_throws_with<TensorError>(
      [&] {
        draw({.prompt = "a cat", .image = images[0], .latents = at::zeros({1, 4, 2, 2})});
      },
      "latents is");
  auto plain = StableDiffusionPipeline::from_pretrained(golden_path("tiny_stable_diffusion"));
  auto wrong = StableDiffusionInstructPix2PixPipeline::from_pipe(plain);
  expect_throws_with<ConfigError>([&] { wrong({.prompt = "a cat", .image = images[0]}); },
                                  "the UNet has 4 input channels, expected 8");
}

}  // namespace
}  // namespace diffusers::test
