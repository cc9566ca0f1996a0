// StableDiffusionTask as the base of a task of one's own.

#include <memory>
#include <string>
#include <vector>

#include <diffusers/training/stable_diffusion_task.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "support/log_capture.h"
#include "training/tiny_text_to_image.h"

namespace diffusers {
namespace {

using test::expect_equal;
using test::expect_throws_with;
using test::load_golden;
using test::LogCapture;
using test::parity_config;
using test::parity_samples;
using test::TemporaryFolder;
using test::tiny_text_to_image;

/// Trains the UNet on latents of half the size of Stable Diffusion's.
class SmallLatents : public StableDiffusionTask {
 public:
  explicit SmallLatents(const TextToImageModels& models, const StableDiffusionTaskOptions& options)
      : StableDiffusionTask("SmallLatents", models, models.unet, DDPMScheduler(), options, "unet") {}
  void save_extras(const std::filesystem::path&) const override {}

  int64_t encoded = 0;

 protected:
  Tensor encode(const Batch& batch) override {
    ++encoded;
    return StableDiffusionTask::encode(batch) / 2;
  }
};

Batch samples_with_prompts() {
  Batch samples = parity_samples(load_golden("text_to_image.safetensors")).slice(0, 4);
  samples.masks = samples.conditioning_images = Tensor();
  return samples;
}

std::vector<std::string> frozen_names(const Task& task) {
  std::vector<std::string> names;
  for (const NamedModule& module : task.frozen()) names.push_back(module.name);
  return names;
}

TEST(StableDiffusionTask, IsTheBaseOfATaskOfOnesOwn) {
  const LogCapture log;
  const TemporaryFolder folder;
  const auto task =
      std::make_shared<SmallLatents>(tiny_text_to_image(), StableDiffusionTaskOptions{.train_unet = true});
  TrainingConfig config = parity_config(folder.path());
  config.max_train_steps = 1;
  Trainer(task, config).train(TensorDataset(samples_with_prompts()));
  EXPECT_EQ(task->encoded, 1);
  EXPECT_NE(task->config_json().find("\"_class_name\": \"SmallLatents\""), std::string::npos);

  // A validation uses the same latents, with the noise of the posterior from its generator.
  const Tensor positions = at::tensor({0.1, 0.3, 0.5, 0.7}, at::kDouble);
  const at::NoGradGuard no_grad;
  const Tensor losses = task->validation_loss(samples_with_prompts(), positions, make_generator(1));
  EXPECT_EQ(task->encoded, 2);
  expect_equal(task->validation_loss(samples_with_prompts(), positions, make_generator(1)), losses);
  EXPECT_FALSE(
      at::equal(task->validation_loss(samples_with_prompts(), positions, make_generator(2)), losses));
}

TEST(StableDiffusionTask, FreezesWhatIsNotTrained) {
  const auto names = [](const StableDiffusionTaskOptions& options) {
    return frozen_names(SmallLatents(tiny_text_to_image({.is_xl = true}), options));
  };
  const std::vector<std::string> all = {"text_encoder", "text_encoder_2", "vae", "unet"};
  EXPECT_EQ(names({}), all);
  EXPECT_EQ(names({.train_unet = true}), std::vector<std::string>(all.begin(), all.begin() + 3));
  EXPECT_EQ(names({.train_unet = true, .train_text_encoder = true}), std::vector<std::string>{"vae"});
}

TEST(StableDiffusionTask, NamesTheTaskInItsErrors) {
  expect_throws_with<ConfigError>(
      [] {
        SmallLatents(tiny_text_to_image(),
                     {.diffusion = {.conditioning = [](const Batch&) { return Conditioning(); }}});
      },
      "SmallLatents: diffusion.conditioning is set");
  TextToImageModels models = tiny_text_to_image();
  models.vae = nullptr;
  expect_throws_with<ConfigError>([&] { SmallLatents(models, {}); },
                                  "SmallLatents: the component \"vae\" is missing");
}

}  // namespace
}  // namespace diffusers
