// ControlNetTask against ten steps of Python's scripts, and what it checks and writes.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/training/controlnet_task.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/log_capture.h"
#include "training/tiny_text_to_image.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_resumes_bit_for_bit;
using test::expect_throws_with;
using test::load_golden;
using test::LogCapture;
using test::parity_config;
using test::parity_samples;
using test::TemporaryFolder;
using test::tiny_text_to_image;
using test::TinyTextToImage;

constexpr const char* kControlNetGolden = "text_to_image.safetensors";

ControlNetModel tiny_controlnet(const UNet2DConditionModel& unet) {
  manual_seed(3);
  return ControlNetModel::from_unet(unet, {.conditioning_embedding_out_channels = {4, 8}});
}

std::shared_ptr<ControlNetTask> make_controlnet_task(const TinyTextToImage& kind = {},
                                                     const ControlNetTaskOptions& options = {}) {
  // The ControlNet's weights are drawn in float32, as Python's.
  ControlNetModel controlnet = tiny_controlnet(tiny_text_to_image({.is_xl = kind.is_xl}).unet);
  controlnet->to(kind.dtype);
  return std::make_shared<ControlNetTask>(tiny_text_to_image(kind), controlnet, options);
}

Batch control_samples() {
  Batch samples = parity_samples(load_golden(kControlNetGolden));
  samples.masks = Tensor();
  return samples;
}

TEST(ControlNetTask, FollowsThePythonScripts) {
  const auto golden = load_golden(kControlNetGolden);
  const LogCapture log;
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble})
    for (const bool is_xl : {false, true})
      for (const bool is_changed : {false, true}) {
        const TemporaryFolder folder;
        TrainingConfig config = parity_config(folder.path());
        // None changes the result.
        config.gradient_checkpointing = is_changed;
        config.cpu_data_parallel = is_changed ? 2 : 1;
        config.gradient_accumulation_steps = is_changed ? 2 : 1;
        config.train_batch_size = is_changed ? 2 : 4;
        const ControlNetTaskOptions options =
            is_xl ? ControlNetTaskOptions{.crops_coords_top_left_h = 3, .crops_coords_top_left_w = 5}
                  : ControlNetTaskOptions{.proportion_empty_prompts = 0.5};
        test::expect_trajectory(is_xl ? "controlnet_xl" : "controlnet",
                                make_controlnet_task({.is_xl = is_xl, .dtype = dtype}, options), config,
                                control_samples(), dtype, golden);
      }
}

TEST(ControlNetTask, SavesTheControlNetAndLeavesTheUNet) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = parity_config(folder.path());
  config.checkpointing_steps = 10;
  config.cpu_data_parallel = 2;
  const auto task = std::make_shared<ControlNetTask>(
      tiny_text_to_image(), tiny_controlnet(tiny_text_to_image().unet), ControlNetTaskOptions{});
  Trainer(task, config).train(TensorDataset(control_samples()));
  for (const char* place : {".", "controlnet", "checkpoint-10/controlnet"}) {
    const ControlNetModel loaded = ControlNetModel::from_pretrained(folder / place);
    for (std::size_t i = 0; i < loaded->parameters().size(); ++i)
      expect_equal(loaded->parameters()[i], task->controlnet()->parameters()[i], place);
  }
  const TextToImageModels before = tiny_text_to_image();
  for (std::size_t i = 0; i < before.unet->parameters().size(); ++i)
    expect_equal(task->models().unet->parameters()[i], before.unet->parameters()[i]);
  EXPECT_FALSE(file_exists(folder / "model_index.json"));
}

TEST(ControlNetTask, StartsFromTheUNetWithoutAControlNet) {
  const TextToImageModels models = tiny_text_to_image();
  const ControlNetTask task(models);
  EXPECT_EQ(task.controlnet()->config().cross_attention_dim, 16);
  EXPECT_EQ(task.controlnet()->config().conditioning_embedding_out_channels, (std::vector<int64_t>{16, 32}));
  expect_equal(task.controlnet()->named_parameters()["conv_in.weight"],
               models.unet->named_parameters()["conv_in.weight"]);
}

TEST(ControlNetTask, ResumesBitForBit) {
  const LogCapture log;
  expect_resumes_bit_for_bit([] { return make_controlnet_task({}, {.proportion_empty_prompts = 0.4}); },
                             control_samples(),
                             {"controlnet/diffusion_pytorch_model.safetensors", "optimizer.safetensors"});
}

TEST(ControlNetTask, WhatDoesNotFitIsNamed) {
  const LogCapture log;
  const auto train = [](const Batch& samples) {
    const TemporaryFolder folder;
    Trainer(make_controlnet_task(), parity_config(folder.path())).train(TensorDataset(samples));
  };
  Batch samples = control_samples();
  samples.conditioning_images = Tensor();
  expect_throws_with<ConfigError>([&] { train(samples); }, "gives no conditioning images");
  samples.conditioning_images = at::zeros({40, 1, 16, 16});
  expect_throws_with<TensorError>(
      [&] { train(samples); },
      "conditioning_images are float32 [4, 1, 16, 16] on cpu, expected a floating "
      "tensor [4, 3, 16, 16]");
  samples = control_samples();
  samples.captions.clear();
  expect_throws_with<ConfigError>([&] { train(samples); }, "0 captions for 4 images");
  expect_throws_with<ConfigError>([] { ControlNetTask task(tiny_text_to_image({.in_channels = 9})); },
                                  "is an inpainting UNet");
  expect_throws_with<ConfigError>(
      [] {
        ControlNetTask task(tiny_text_to_image(), tiny_controlnet(tiny_text_to_image({.is_xl = true}).unet));
      },
      "cross_attention_dim of the controlnet is 32, but that of the unet is 16");
  expect_throws_with<ConfigError>(
      [] {
        const TextToImageModels models = tiny_text_to_image();
        ControlNetTask task(models, ControlNetModel::from_unet(models.unet));
      },
      "conditioning_embedding_out_channels of the controlnet is [16, 32, 96, 256], which makes a "
      "conditioning "
      "image smaller by 2^3, but the vae makes an image smaller by 2");
  expect_throws_with<ConfigError>(
      [] { make_controlnet_task({.is_xl = true}, {.crops_coords_top_left_h = -1}); },
      "crops_coords_top_left_h is -1, expected 0 or more");
  expect_throws_with<ConfigError>(
      [] { make_controlnet_task({}, {.crops_coords_top_left_w = 4}); },
      "crops_coords_top_left_w is 4, but only the UNet of Stable Diffusion XL is");
}

}  // namespace
}  // namespace diffusers
