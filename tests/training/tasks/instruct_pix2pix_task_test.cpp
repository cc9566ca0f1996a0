// InstructPix2PixTask against ten steps of Python's script, and what it checks and writes.

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <diffusers/training/instruct_pix2pix_task.h>

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

TextToImageModels editing_models(const TinyTextToImage& kind = {}) {
  TextToImageModels models = tiny_text_to_image(kind);
  models.unet = InstructPix2PixTask::widened_unet(models.unet);
  return models;
}

std::shared_ptr<InstructPix2PixTask> make_editing_task(const TinyTextToImage& kind = {},
                                                       const InstructPix2PixTaskOptions& options = {}) {
  return std::make_shared<InstructPix2PixTask>(editing_models(kind), options);
}

Batch editing_samples() {
  Batch samples = parity_samples(load_golden("text_to_image.safetensors"));
  samples.original_images = samples.conditioning_images * 2 - 1;
  samples.masks = Tensor();
  samples.conditioning_images = Tensor();
  samples.captions.clear();
  const auto golden = load_golden("fine_tuning.safetensors");
  const auto instructions = nlohmann::json::parse(golden.metadata.at("instructions"));
  for (int64_t i = 0; i < samples.images.size(0); ++i)
    samples.captions.push_back(
        instructions[static_cast<std::size_t>(i) % instructions.size()].get<std::string>());
  return samples;
}

TEST(InstructPix2PixTask, FollowsThePythonScript) {
  const auto golden = load_golden("fine_tuning.safetensors");
  struct Case {
    const char* name;
    TinyTextToImage kind;
    InstructPix2PixTaskOptions options;
  };
  const Case cases[] = {{"all_kept", {}, {}},
                        {"dropped", {.prediction_type = "v_prediction"}, {.conditioning_dropout_prob = 0.2}}};
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
        InstructPix2PixTaskOptions options = one.options;
        options.cache_text_embeddings = is_changed;
        test::expect_trajectory(one.name, make_editing_task(kind, options), config, editing_samples(), dtype,
                                golden);
      }
}

TEST(InstructPix2PixTask, WidensAUNetWithoutAnEffect) {
  TextToImageModels plain = tiny_text_to_image();
  UNet2DConditionModel wide = InstructPix2PixTask::widened_unet(plain.unet);
  EXPECT_EQ(wide->config().in_channels, 8);
  const at::NoGradGuard no_grad;
  const Tensor x = at::randn({2, 4, 8, 8}, make_generator(1));
  const Tensor states = at::randn({2, 5, 16}, make_generator(2));
  const Tensor t = at::tensor({3, 500}, at::kLong);
  test::expect_close(
      wide->forward(at::cat({x, at::randn({2, 4, 8, 8}, make_generator(3))}, 1), t, states).sample,
      plain.unet->forward(x, t, states).sample, 1e-5, 1e-5);
  expect_equal(wide->named_parameters()["conv_in.bias"], plain.unet->named_parameters()["conv_in.bias"],
               "bias");
  plain.unet->to(at::kDouble);
  EXPECT_EQ(InstructPix2PixTask::widened_unet(plain.unet)->parameters().front().scalar_type(), at::kDouble);
  expect_throws_with<ConfigError>([&] { InstructPix2PixTask::widened_unet(wide); },
                                  "the unet has 8 input channels and 4 output channels");
  expect_throws_with<ConfigError>([] { InstructPix2PixTask::widened_unet(UNet2DConditionModel(nullptr)); },
                                  "there is no unet");
}

TEST(InstructPix2PixTask, DropsInstructionAndImageAsThePaperSays) {
  struct Exposed : InstructPix2PixTask {
    using InstructPix2PixTask::conditioning;
    using InstructPix2PixTask::draw;
    using InstructPix2PixTask::InstructPix2PixTask;
  };
  const LogCapture log;
  const TemporaryFolder folder;
  Exposed task(editing_models(), {.conditioning_dropout_prob = 0.2});
  task.configure(parity_config(folder.path()));
  const Batch batch = editing_samples();
  const int64_t count = batch.images.size(0);
  task.begin_step({.samples = count, .generator = make_generator(3)});
  const Tensor x0 = at::zeros({count, 4, 8, 8});
  task.draw(x0);
  const Conditioning dropped = task.conditioning(batch);
  // A second call has no dropped conditioning, as in a validation.
  const Conditioning kept = task.conditioning(batch);
  const auto generator = make_generator(3);
  at::randn(x0.sizes(), generator);
  at::randint(0, 1000, {count}, generator, at::kLong);
  const Tensor numbers = at::rand({count}, generator);
  int64_t both = 0;
  for (int64_t i = 0; i < count; ++i) {
    const auto u = numbers[i].item<double>();
    const bool has_image = dropped.extra_channels[i].abs().sum().item<double>() > 0;
    const bool has_text = at::equal(dropped.encoder_hidden_states[i], kept.encoder_hidden_states[i]);
    EXPECT_EQ(has_image, u < 0.2 || u >= 0.6) << u;
    EXPECT_EQ(has_text, u >= 0.4) << u;
    both += has_image || has_text ? 0 : 1;
  }
  EXPECT_GT(both, 0);
}

TEST(InstructPix2PixTask, SavesAPipelineFolder) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = parity_config(folder.path());
  config.checkpointing_steps = 10;
  config.use_ema = true;
  const auto task = make_editing_task({}, {.conditioning_dropout_prob = 0.05});
  Trainer(task, config).train(TensorDataset(editing_samples()), TensorDataset(editing_samples()));
  const auto index = nlohmann::json::parse(read_text_file(folder / "model_index.json"));
  EXPECT_EQ(index["_class_name"], "StableDiffusionInstructPix2PixPipeline");
  const TextToImageModels saved = TextToImageModels::from_pretrained(folder.path());
  EXPECT_EQ(saved.unet->config().in_channels, 8);
  // The new kernels are trained.
  EXPECT_GT(saved.unet->named_parameters()["conv_in.weight"].narrow(1, 4, 4).abs().max().item<double>(), 0);
  // A training goes on from the folder.
  EXPECT_NO_THROW(InstructPix2PixTask{saved});
}

TEST(InstructPix2PixTask, ResumesBitForBit) {
  const LogCapture log;
  expect_resumes_bit_for_bit([] { return make_editing_task({}, {.conditioning_dropout_prob = 0.2}); },
                             editing_samples(),
                             {"unet/diffusion_pytorch_model.safetensors", "optimizer.safetensors"});
}

TEST(InstructPix2PixTask, WhatDoesNotFitIsNamed) {
  const LogCapture log;
  expect_throws_with<ConfigError>([] { InstructPix2PixTask task(tiny_text_to_image()); },
                                  "the unet has 4 input channels, expected 8");
  expect_throws_with<ConfigError>([] { InstructPix2PixTask task(tiny_text_to_image({.in_channels = 9})); },
                                  "the unet has 9 input channels, expected 8");
  expect_throws_with<ConfigError>([] { InstructPix2PixTask task(tiny_text_to_image({.is_xl = true})); },
                                  "the unet is one of Stable Diffusion XL");
  for (const double probability : {-0.1, 0.34})
    expect_throws_with<ConfigError>(
        [&] { make_editing_task({}, {.conditioning_dropout_prob = probability}); }, "expected 0 to 1/3");
  TextToImageModels models = editing_models();
  models.vae = nullptr;
  expect_throws_with<ConfigError>([&] { InstructPix2PixTask task(models); }, "\"vae\" is missing");
  const auto train = [](const Batch& samples) {
    const TemporaryFolder folder;
    Trainer(make_editing_task(), parity_config(folder.path())).train(TensorDataset(samples));
  };
  Batch samples = editing_samples();
  samples.original_images = Tensor();
  expect_throws_with<ConfigError>([&] { train(samples); }, "the dataset gives no original images");
  samples.original_images = at::zeros({40, 3, 8, 8});
  expect_throws_with<TensorError>(
      [&] { train(samples); },
      "original_images are float32 [4, 3, 8, 8] on cpu, expected a floating tensor [4, 3, 16, 16]");
  samples = editing_samples();
  samples.captions.clear();
  expect_throws_with<ConfigError>([&] { train(samples); }, "0 captions for 4 images");
  // The option is part of a checkpoint.
  const TemporaryFolder folder;
  TrainingConfig config = parity_config(folder.path());
  config.max_train_steps = 2;
  config.checkpointing_steps = 1;
  Trainer(make_editing_task(), config).train(TensorDataset(editing_samples()));
  config.max_train_steps = 3;
  config.resume_from_checkpoint = "latest";
  expect_throws_with<ConfigError>(
      [&] {
        Trainer(make_editing_task({}, {.conditioning_dropout_prob = 0.1}), config)
            .train(TensorDataset(editing_samples()));
      },
      "conditioning_dropout_prob");
}

}  // namespace
}  // namespace diffusers
