// T2IAdapterTask against ten steps of Python's script, and what it checks and writes.

#include <memory>
#include <string>
#include <vector>

#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/training/t2i_adapter_task.h>

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

/// The tiny models with down blocks in the order of Stable Diffusion, or of XL.
TextToImageModels models_for_adapter(const TinyTextToImage& kind = {}) {
  TextToImageModels models = tiny_text_to_image(kind);
  UNet2DConditionModelConfig config = test::tiny_unet_config(kind);
  if (kind.is_xl) {
    config.down_block_types = {"DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"};
    config.up_block_types = {"CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"};
    config.block_out_channels = {4, 8, 8};
  } else {
    config.down_block_types = {"CrossAttnDownBlock2D", "DownBlock2D"};
    config.up_block_types = {"UpBlock2D", "CrossAttnUpBlock2D"};
  }
  manual_seed(1);
  models.unet = UNet2DConditionModel(config);
  models.unet->to(kind.dtype);
  return models;
}

std::shared_ptr<T2IAdapterTask> make_t2i_adapter_task(const TinyTextToImage& kind = {},
                                                      const T2IAdapterTaskOptions& options = {}) {
  const TextToImageModels models = models_for_adapter(kind);
  // The adapter's weights are drawn in float32, as Python's.
  manual_seed(3);
  T2IAdapter adapter = T2IAdapterTask::make_adapter(models);
  adapter->to(kind.dtype);
  return std::make_shared<T2IAdapterTask>(models, adapter, options);
}

Batch samples_for_adapter() {
  Batch samples = parity_samples(load_golden("text_to_image.safetensors"));
  samples.masks = Tensor();
  return samples;
}

TEST(T2IAdapterTask, FollowsThePythonScript) {
  const auto golden = load_golden("t2i_adapter_training.safetensors");
  struct Case {
    const char* name;
    TinyTextToImage kind;
    T2IAdapterTaskOptions options;
  };
  const Case cases[] = {
      {"sd", {}, {.proportion_empty_prompts = 0.5}},
      {"v", {.prediction_type = "v_prediction"}, {}},
      {"xl", {.is_xl = true}, {.crops_coords_top_left_h = 3, .crops_coords_top_left_w = 5}}};
  const LogCapture log;
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble})
    for (const Case& one : cases)
      for (const bool is_changed : {false, true}) {
        const TemporaryFolder folder;
        TrainingConfig config = parity_config(folder.path());
        // None changes the result.
        config.gradient_checkpointing = is_changed;
        config.cpu_data_parallel = is_changed ? 2 : 1;
        config.gradient_accumulation_steps = is_changed ? 2 : 1;
        config.train_batch_size = is_changed ? 2 : 4;
        TinyTextToImage kind = one.kind;
        kind.dtype = dtype;
        T2IAdapterTaskOptions options = one.options;
        options.cache_text_embeddings = is_changed;
        test::expect_trajectory(one.name, make_t2i_adapter_task(kind, options), config, samples_for_adapter(),
                                dtype, golden);
      }
}

TEST(T2IAdapterTask, SavesTheAdapterAndLeavesTheUNet) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = parity_config(folder.path());
  config.checkpointing_steps = 10;
  config.cpu_data_parallel = 2;
  config.noise_offset = 0.1;
  config.snr_gamma = 5.0;
  const auto task = make_t2i_adapter_task();
  Trainer(task, config).train(TensorDataset(samples_for_adapter()), TensorDataset(samples_for_adapter()));
  for (const char* place : {".", "t2iadapter", "checkpoint-10/t2iadapter"}) {
    const T2IAdapter loaded = T2IAdapter::from_pretrained(folder / place);
    for (std::size_t i = 0; i < loaded->parameters().size(); ++i)
      expect_equal(loaded->parameters()[i], task->adapter()->parameters()[i], place);
  }
  const TextToImageModels before = models_for_adapter();
  for (std::size_t i = 0; i < before.unet->parameters().size(); ++i)
    expect_equal(task->models().unet->parameters()[i], before.unet->parameters()[i]);
  EXPECT_FALSE(file_exists(folder / "model_index.json"));
  EXPECT_EQ(Scheduler::from_pretrained(folder.path(), {.subfolder = "scheduler"})->class_name(),
            before.scheduler->class_name());
}

TEST(T2IAdapterTask, MakesAnAdapterForTheUNet) {
  const T2IAdapterTask task(models_for_adapter({.is_xl = true, .dtype = at::kDouble}));
  EXPECT_EQ(task.adapter()->config().channels, (std::vector<int64_t>{4, 8, 8, 8}));
  EXPECT_EQ(task.adapter()->config().adapter_type, T2IAdapterType::kFullAdapterXl);
  EXPECT_EQ(task.adapter()->config().downscale_factor, 4);
  EXPECT_EQ(task.adapter()->parameters().front().scalar_type(), at::kDouble);
  EXPECT_EQ(task.options().timestep_sampling, TimestepSampling::kCubic);
  // Blocks in the order of Python's smallest test models.
  EXPECT_EQ(T2IAdapterTask::make_adapter(tiny_text_to_image())->config().adapter_type,
            T2IAdapterType::kFullAdapterXl);
}

TEST(T2IAdapterTask, TellsTheUNetTheCropOfTheOptions) {
  struct Exposed : T2IAdapterTask {
    using T2IAdapterTask::conditioning;
    using T2IAdapterTask::T2IAdapterTask;
  };
  const LogCapture log;
  const TextToImageModels models = models_for_adapter({.is_xl = true});
  const Batch batch = samples_for_adapter().slice(0, 2);
  const Tensor target = at::full({2, 2}, 16.0F);
  Exposed cropped(models, nullptr, {.crops_coords_top_left_h = 3, .crops_coords_top_left_w = 5});
  expect_equal(cropped.conditioning(batch).added_cond_kwargs.time_ids,
               at::cat({target, at::tensor({3.0F, 5.0F}).expand({2, 2}), target}, 1));
  Exposed whole(models);
  expect_equal(whole.conditioning(batch).added_cond_kwargs.time_ids,
               at::cat({target, at::zeros({2, 2}), target}, 1));
}

TEST(T2IAdapterTask, ResumesBitForBit) {
  const LogCapture log;
  expect_resumes_bit_for_bit([] { return make_t2i_adapter_task({}, {.proportion_empty_prompts = 0.4}); },
                             samples_for_adapter(),
                             {"t2iadapter/diffusion_pytorch_model.safetensors", "optimizer.safetensors"});
}

TEST(T2IAdapterTask, ResumesWithTheSameOptionsOnly) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = parity_config(folder.path());
  config.max_train_steps = 2;
  config.checkpointing_steps = 1;
  const auto train = [&](const T2IAdapterTaskOptions& options) {
    Trainer(make_t2i_adapter_task({.is_xl = true}, options), config)
        .train(TensorDataset(samples_for_adapter()));
  };
  train({});
  config.max_train_steps = 3;
  config.resume_from_checkpoint = "latest";
  expect_throws_with<ConfigError>([&] { train({.crops_coords_top_left_w = 5}); }, "crops_coords_top_left_w");
  expect_throws_with<ConfigError>([&] { train({.proportion_empty_prompts = 0.5}); },
                                  "proportion_empty_prompts");
  expect_throws_with<ConfigError>([&] { train({.diffusion = {}}); }, "timestep_sampling");
}

TEST(T2IAdapterTask, WhatDoesNotFitIsNamed) {
  const LogCapture log;
  const auto train = [](const Batch& samples) {
    const TemporaryFolder folder;
    Trainer(make_t2i_adapter_task(), parity_config(folder.path())).train(TensorDataset(samples));
  };
  Batch samples = samples_for_adapter();
  samples.conditioning_images = Tensor();
  expect_throws_with<ConfigError>([&] { train(samples); }, "gives no conditioning images");
  samples.conditioning_images = at::zeros({40, 1, 16, 16});
  expect_throws_with<TensorError>(
      [&] { train(samples); },
      "conditioning_images are float32 [4, 1, 16, 16] on cpu, expected a floating tensor [4, 3, 16, 16]");
  samples.conditioning_images = at::zeros({40, 3, 8, 8});
  expect_throws_with<TensorError>([&] { train(samples); }, "conditioning_images are float32 [4, 3, 8, 8]");
  samples = samples_for_adapter();
  samples.captions.clear();
  expect_throws_with<ConfigError>([&] { train(samples); }, "0 captions for 4 images");
  expect_throws_with<ConfigError>([] { T2IAdapterTask task(tiny_text_to_image({.in_channels = 9})); },
                                  "is an inpainting UNet");
  expect_throws_with<ConfigError>(
      [] {
        T2IAdapterTask task(models_for_adapter(), T2IAdapter({.channels = {4, 4}, .downscale_factor = 2}));
      },
      "feature 1 of the adapter");
  TextToImageModels models = models_for_adapter();
  expect_throws_with<ConfigError>(
      [&] { T2IAdapterTask task(models, nullptr, {.proportion_empty_prompts = 1.5}); },
      "proportion_empty_prompts is 1.5");
  expect_throws_with<ConfigError>(
      [&] { T2IAdapterTask task(models, nullptr, {.crops_coords_top_left_w = 4}); },
      "crops_coords_top_left_w is 4, but only the UNet of Stable Diffusion XL is");
  expect_throws_with<ConfigError>(
      [] { make_t2i_adapter_task({.is_xl = true}, {.crops_coords_top_left_h = -1}); },
      "crops_coords_top_left_h is -1, expected 0 or more");
  expect_throws_with<ConfigError>(
      [&] {
        T2IAdapterTask task(models, nullptr,
                            {.diffusion = {.conditioning = [](const Batch&) { return Conditioning(); }}});
      },
      "diffusion.conditioning is set");
  models.scheduler = FlowMatchEulerDiscreteScheduler();
  expect_throws_with<ConfigError>([&] { T2IAdapterTask task(models); },
                                  "the scheduler is a FlowMatchEulerDiscreteScheduler, which has no betas");
  models.scheduler = SchedulerValue();
  expect_throws_with<ConfigError>([&] { T2IAdapterTask task(models); }, "\"scheduler\" is missing");
}

TEST(T2IAdapterTask, NeedsImagesThatTheAdapterCanUnshuffle) {
  const LogCapture log;
  const TemporaryFolder folder;
  Batch samples = samples_for_adapter();
  samples.images = samples.images.narrow(2, 0, 14);
  samples.conditioning_images = samples.conditioning_images.narrow(2, 0, 14);
  expect_throws_with<TensorError>(
      [&] {
        Trainer(make_t2i_adapter_task({.is_xl = true}), parity_config(folder.path()))
            .train(TensorDataset(samples));
      },
      "expected a height and a width that the downscale_factor of the adapter, 4, divides");
}

}  // namespace
}  // namespace diffusers
