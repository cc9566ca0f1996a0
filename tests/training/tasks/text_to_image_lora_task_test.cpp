// TextToImageLoraTask against ten steps of Python's scripts, and what it checks and writes.

#include <memory>
#include <string>
#include <vector>

#include <diffusers/models/lora_weights.h>
#include <diffusers/training/text_to_image_lora_task.h>
#include <diffusers/training/text_to_image_task.h>

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

std::shared_ptr<TextToImageLoraTask> make_lora_task(const TinyTextToImage& kind = {},
                                                    const TextToImageLoraTaskOptions& options = {}) {
  const TextToImageModels models = tiny_text_to_image(kind);
  manual_seed(3);
  return std::make_shared<TextToImageLoraTask>(models, options);
}

Batch samples_for_lora() {
  Batch samples = parity_samples(load_golden("text_to_image.safetensors"));
  samples.masks = Tensor();
  samples.conditioning_images = Tensor();
  return samples;
}

/// Compares ten steps with those of the script, in both dtypes.
/// @param name case of tests/reference/lora_training.py
void expect_python_trajectory(const char* name, TinyTextToImage kind, TextToImageLoraTaskOptions options) {
  const auto golden = load_golden("lora_training.safetensors");
  const LogCapture log;
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble})
    for (const bool is_changed : {false, true}) {
      const TemporaryFolder folder;
      TrainingConfig config = parity_config(folder.path());
      // None changes the result.
      config.gradient_checkpointing = is_changed;
      config.gradient_accumulation_steps = is_changed ? 2 : 1;
      config.train_batch_size = is_changed ? 2 : 4;
      kind.dtype = dtype;
      options.cache_text_embeddings = is_changed && !options.train_text_encoder;
      test::expect_trajectory(name, make_lora_task(kind, options), config, samples_for_lora(), dtype, golden);
    }
}

TEST(TextToImageLoraTask, FollowsThePythonScript) {
  expect_python_trajectory("sd", {}, {});
  expect_python_trajectory("text", {}, {.train_text_encoder = true});
}

TEST(TextToImageLoraTask, FollowsThePythonScriptOfStableDiffusionXL) {
  expect_python_trajectory("xl", {.is_xl = true}, {.proportion_empty_prompts = 0.3});
}

TEST(TextToImageLoraTask, FollowsPeftWithConvolutions) {
  TextToImageLoraTaskOptions options;
  options.unet_lora.target_modules = {
      "to_q", "conv_in", "conv1", "conv2", "conv_shortcut", "proj_in", "downsamplers.0.conv"};
  expect_python_trajectory("conv", {}, options);
}

TEST(TextToImageLoraTask, FollowsPeftWithDora) {
  TextToImageLoraTaskOptions options;
  options.unet_lora.r = 2;
  options.unet_lora.use_dora = true;
  expect_python_trajectory("dora", {.prediction_type = "v_prediction"}, options);
}

TEST(TextToImageLoraTask, SavesTheAdaptersAndLeavesTheModels) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = parity_config(folder.path());
  config.checkpointing_steps = 10;
  config.cpu_data_parallel = 2;
  const auto task = make_lora_task({}, {.train_text_encoder = true});
  Trainer(task, config).train(TensorDataset(samples_for_lora()), TensorDataset(samples_for_lora()));

  const TextToImageModels before = tiny_text_to_image();
  const auto same_weights = [](const torch::nn::Module& plain, const torch::nn::Module& trained) {
    const auto parameters = trained.named_parameters();
    for (const auto& item : plain.named_parameters()) expect_equal(parameters[item.key()], item.value());
  };
  same_weights(*before.unet.ptr(), *task->models().unet.ptr());
  same_weights(*before.text_encoder.ptr(), *task->models().text_encoder.ptr());
  EXPECT_FALSE(file_exists(folder / "model_index.json"));

  const TextToImageModels loaded = tiny_text_to_image();
  load_lora_weights(folder.path(), {.unet = loaded.unet, .text_encoder = loaded.text_encoder},
                    {.adapter_name = "default"});
  load_lora_weights(folder / "checkpoint-10/unet_lora", {.unet = before.unet}, {.adapter_name = "default"});
  load_lora_weights(folder / "text_encoder_lora", {.text_encoder = before.text_encoder},
                    {.adapter_name = "default"});
  same_weights(*task->models().unet.ptr(), *loaded.unet.ptr());
  same_weights(*task->models().unet.ptr(), *before.unet.ptr());
  same_weights(*task->models().text_encoder.ptr(), *loaded.text_encoder.ptr());
  same_weights(*task->models().text_encoder.ptr(), *before.text_encoder.ptr());
}

TEST(TextToImageLoraTask, ResumesBitForBit) {
  const LogCapture log;
  TextToImageLoraTaskOptions options{.train_text_encoder = true, .proportion_empty_prompts = 0.3};
  options.unet_lora.lora_dropout = 0.2;
  options.unet_lora.use_dora = true;
  expect_resumes_bit_for_bit(
      [&] { return make_lora_task({}, options); }, samples_for_lora(),
      {"unet_lora/pytorch_lora_weights.safetensors", "text_encoder_lora/pytorch_lora_weights.safetensors",
       "optimizer.safetensors", "trainer_state.safetensors"});
}

TEST(TextToImageLoraTask, ATrainingIsResumedWithItsAdapterOnly) {
  const LogCapture log;
  const TemporaryFolder folder;
  TrainingConfig config = parity_config(folder.path());
  config.max_train_steps = 2;
  config.checkpointing_steps = 1;
  Trainer(make_lora_task(), config).train(TensorDataset(samples_for_lora()));
  config.max_train_steps = 4;
  config.resume_from_checkpoint = "latest";
  TextToImageLoraTaskOptions other;
  other.unet_lora.lora_alpha = 8;
  expect_throws_with<ConfigError>(
      [&] { Trainer(make_lora_task({}, other), config).train(TensorDataset(samples_for_lora())); },
      "unet.lora_alpha");
}

TEST(TextToImageLoraTask, TrainsTheAdapterThatTheUNetHas) {
  const LogCapture log;
  const TemporaryFolder folder;
  const TextToImageModels models = tiny_text_to_image();
  UNet2DConditionModel unet = models.unet;
  unet->add_adapter({.r = 1, .target_modules = {"to_q"}}, "style");
  const auto task = std::make_shared<TextToImageLoraTask>(models);
  TrainingConfig config = parity_config(folder.path());
  config.max_train_steps = 1;
  Trainer(task, config).train(TensorDataset(samples_for_lora()));
  const TextToImageModels loaded = tiny_text_to_image();
  load_lora_weights(folder.path(), {.unet = loaded.unet}, {.adapter_name = "style"});
  UNet2DConditionModel loaded_unet = loaded.unet;
  EXPECT_EQ(loaded_unet->peft_config("style").r, 1);
  unet->fuse_lora();
  expect_throws_with<ConfigError>([&] { TextToImageLoraTask again(models); }, "is fused");
  unet->unfuse_lora();
  unet->disable_adapters();
  expect_throws_with<ConfigError>([&] { TextToImageLoraTask again(models); }, "call enable_adapters");
  unet->enable_adapters();
  unet->add_adapter({.r = 1, .target_modules = {"to_k"}}, "other");
  expect_throws_with<ConfigError>([&] { TextToImageLoraTask again(models); }, "expected one that is trained");
}

// from_pretrained gives models in eval mode. The Trainer asks the trained module for its mode.
TEST(TextToImageLoraTask, TheTrainedModuleHasTheModeOfTheUNet) {
  TextToImageModels models = tiny_text_to_image({});
  models.unet->eval();
  const TextToImageLoraTask task(models, {});
  EXPECT_FALSE(task.trained().front().module->module().is_training());
  task.trained().front().module->module().train();
  EXPECT_TRUE(models.unet->is_training());
  for (const auto& module : models.unet->modules()) EXPECT_TRUE(module->is_training());
  models.unet->eval();
  EXPECT_FALSE(task.trained().front().module->module().is_training());
}

TEST(TextToImageLoraTask, TrainsFloatAdaptersOfModelsInBfloat16) {
  const LogCapture log;
  std::vector<Tensor> trained;
  std::vector<double> losses;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const TemporaryFolder folder;
    TrainingConfig config = parity_config(folder.path());
    config.mixed_precision = MixedPrecision::kBf16;
    config.gradient_checkpointing = true;
    const auto task = make_lora_task({.dtype = dtype}, {.train_text_encoder = true});
    losses.push_back(Trainer(task, config).train(TensorDataset(samples_for_lora())).loss);
    for (const auto& item : task->models().unet.ptr()->named_parameters()) {
      const bool is_adapter = item.key().find("lora_") != std::string::npos;
      EXPECT_EQ(item.value().scalar_type(), is_adapter ? at::kFloat : dtype) << item.key();
    }
    trained.push_back(test::flat_parameters(task->trained()));
    EXPECT_EQ(trained.back().scalar_type(), at::kFloat);
  }
  // bfloat16 has 8 bits; ten steps of Adam with the learning rate 1e-3.
  EXPECT_NEAR(losses[1], losses[0], 0.02 * losses[0]);
  test::expect_close(trained[1], trained[0], 0, 0.02, "adapters");
}

TEST(TextToImageLoraTask, ATrainingOfModelsInBfloat16ResumesBitForBit) {
  const LogCapture log;
  const TemporaryFolder folder;
  const auto train_until = [&](const char* name, int64_t steps, bool resumes) {
    TrainingConfig config = parity_config(folder / name);
    config.mixed_precision = MixedPrecision::kBf16;
    config.max_train_steps = steps;
    config.checkpointing_steps = 2;
    if (resumes) config.resume_from_checkpoint = "latest";
    Trainer(make_lora_task({.dtype = at::kBFloat16}), config).train(TensorDataset(samples_for_lora()));
    return read_text_file(folder / name + "/pytorch_lora_weights.safetensors");
  };
  const std::string whole = train_until("whole", 4, false);
  train_until("parts", 2, false);
  EXPECT_EQ(train_until("parts", 4, true), whole);
}

TEST(TextToImageLoraTask, ModelsInHalfPrecisionNeedMixedPrecision) {
  const TemporaryFolder folder;
  expect_throws_with<ConfigError>(
      [&] { Trainer trainer(make_lora_task({.dtype = at::kBFloat16}), parity_config(folder.path())); },
      "the unet is bfloat16, expected mixed_precision \"bf16\"");
}

TEST(TextToImageLoraTask, TasksThatSaveWholeModelsRefuseAdapters) {
  const TextToImageModels models = tiny_text_to_image();
  UNet2DConditionModel unet = models.unet;
  CLIPTextModel text_encoder = models.text_encoder;
  text_encoder->add_adapter({.r = 1, .target_modules = {"q_proj"}}, "words");
  expect_throws_with<ConfigError>([&] { TextToImageTask task(models); },
                                  "the text_encoder has the adapters [\"words\"], which are not saved");
  text_encoder->unload_lora();
  unet->add_adapter({.r = 1, .target_modules = {"to_q"}}, "style");
  expect_throws_with<ConfigError>([&] { TextToImageTask task(models); },
                                  "the unet has the adapters [\"style\"], which are not saved");
  const TemporaryFolder folder;
  expect_throws_with<ConfigError>(
      [&] {
        Trainer trainer(std::make_shared<DiffusionTask>(unet, DDPMScheduler()), parity_config(folder.path()));
      },
      "the model \"unet\" has the adapters");
  unet->fuse_lora();
  unet->unload_lora();
  TextToImageTask task(models);
}

TEST(TextToImageLoraTask, OptionsAreChecked) {
  TextToImageLoraTaskOptions options;
  options.unet_lora.target_modules = {"nothing"};
  expect_throws_with<ConfigError>([&] { make_lora_task({}, options); }, "nothing");
  expect_throws_with<ConfigError>(
      [&] { make_lora_task({}, {.train_text_encoder = true, .cache_text_embeddings = true}); },
      "cache_text_embeddings and train_text_encoder");
  TextToImageModels models = tiny_text_to_image();
  models.vae = nullptr;
  expect_throws_with<ConfigError>([&] { TextToImageLoraTask task(models); }, "vae");
}

}  // namespace
}  // namespace diffusers
