// The weights of the model while a preview runs, and after a preview that throws.

#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_equal;
using test::expect_throws_with;
using test::quiet_config;
using test::seeded_net;
using test::TinyImages;
using test::TinyNet;

TEST(Trainer, ShowsTheAverageToAPreview) {
  const test::TemporaryFolder folder;
  TinyNet model = seeded_net(0.5);
  TrainingConfig config = quiet_config(folder.path());
  config.use_ema = true;
  config.max_train_steps = 7;
  config.validation_steps = 3;
  Trainer trainer(model, DDPMScheduler(), config);
  std::vector<int64_t> steps;
  std::vector<Tensor> weights;
  trainer.on_step([&](int64_t) { weights = copies(model->parameters()); });
  trainer.on_preview([&](const PreviewContext& context) {
    steps.push_back(context.step);
    EXPECT_FALSE(model->is_training());
    EXPECT_FALSE(at::GradMode::is_enabled());
    for (std::size_t i = 0; i < weights.size(); ++i) {
      expect_equal(model->parameters()[i].detach(), trainer.ema()->shadow_params()[i]);
      EXPECT_FALSE(at::equal(model->parameters()[i], weights[i]));
    }
  });
  trainer.train(TinyImages(16));
  EXPECT_EQ(steps, (std::vector<int64_t>{3, 6, 7}));
}

TEST(Trainer, RestoresTheWeightsIfAPreviewThrows) {
  const test::TemporaryFolder folder;
  TinyNet model = seeded_net();
  TrainingConfig config = quiet_config(folder.path());
  config.use_ema = true;
  config.validation_steps = 3;
  Trainer trainer(model, DDPMScheduler(), config);
  std::vector<Tensor> weights;
  trainer.on_step([&](int64_t) { weights = copies(model->parameters()); });
  trainer.on_preview([](const PreviewContext&) { throw FileError("the disk is full"); });
  expect_throws_with<FileError>([&] { trainer.train(TinyImages(16)); }, "the disk is full");
  for (std::size_t i = 0; i < weights.size(); ++i) expect_equal(model->parameters()[i].detach(), weights[i]);
}

}  // namespace
}  // namespace diffusers
