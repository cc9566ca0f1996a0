#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/training/trainer.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/quick_training.h"

namespace diffusers {
namespace {

using test::copies;
using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;
using test::LabelledNet;
using test::quiet_config;
using test::seeded_net;
using test::TinyImages;
using test::TinyNet;

TEST(DiffusionTask, DropsLabelsForGuidance) {
  const test::TemporaryFolder folder;
  TrainingConfig config = quiet_config(folder.path());
  const DiffusionTaskOptions options{.class_dropout_prob = 0.3};
  expect_throws_with<ConfigError>([&] { Trainer(LabelledNet(), DDPMScheduler(), config, options); },
                                  "num_class_embeds");
  expect_throws_with<ConfigError>([&] { Trainer(TinyNet(), DDPMScheduler(), config, options); },
                                  "class_dropout_prob is 0.3");
  expect_throws_with<ConfigError>(
      [&] { Trainer(LabelledNet(), DDPMScheduler(), config, {.class_dropout_prob = 1.0}); },
      "class_dropout_prob is 1");
  config.train_batch_size = 1000;
  LabelledNet model;
  model->facts.num_class_embeds = 11;
  Trainer(model, DDPMScheduler(), config, options).train(TinyImages(1000, /*has_labels=*/true, /*side=*/1));
  const Tensor is_null = model->last_labels == 10;
  const auto dropped = is_null.sum().item<int64_t>();
  EXPECT_NEAR(static_cast<double>(dropped), 300.0, 60.0);  // four standard deviations
  config.overwrite_output_dir = true;
  expect_throws_with<ConfigError>(
      [&] { Trainer(model, DDPMScheduler(), config, options).train(TinyImages(8)); },
      "class_dropout_prob is 0.3, but the dataset has no class labels");
}

TEST(DiffusionTask, TrainsWithEveryWayToDrawTimesteps) {
  for (const TimestepSampling strategy :
       {TimestepSampling::kUniform, TimestepSampling::kStratified, TimestepSampling::kAntithetic,
        TimestepSampling::kLogitNormal, TimestepSampling::kMode, TimestepSampling::kLossSecondMoment,
        TimestepSampling::kCubic}) {
    const auto train = [&](int64_t batch_size, int64_t accumulation) {
      const test::TemporaryFolder folder;
      TinyNet model = seeded_net();
      TrainingConfig config = quiet_config(folder.path());
      config.train_batch_size = batch_size;
      config.gradient_accumulation_steps = accumulation;
      config.num_epochs = 2;
      Trainer(model, DDPMScheduler({.num_train_timesteps = 5}), config,
              {.timestep_sampling = strategy, .pyramid_noise_iterations = 2})
          .train(TinyImages(24));
      return copies(model->parameters());
    };
    const std::vector<Tensor> large = train(12, 1);
    const std::vector<Tensor> small = train(4, 3);
    for (std::size_t i = 0; i < large.size(); ++i)
      expect_close(small[i], large[i], 1e-4, 1e-5, enum_name(strategy));
  }
}

TEST(DiffusionTask, DrawsTheSigmasOfFlowMatching) {
  class Exposed : public DiffusionTask {
   public:
    using DiffusionTask::DiffusionTask;
    using DiffusionTask::draw;
  };
  const auto timesteps = [](const FlowMatchEulerDiscreteScheduler& scheduler, bool continuous) {
    Exposed task(make_trainable(TinyNet()), scheduler, {.continuous_timesteps = continuous});
    task.configure({});
    task.begin_step({.step = 0, .samples = 2000, .generator = make_generator(1)});
    return task.draw(at::zeros({2000, 1, 2, 2})).timesteps;
  };
  const FlowMatchEulerDiscreteScheduler shifted({.shift = 3.0});
  const Tensor discrete = timesteps(shifted, false);
  EXPECT_TRUE(at::isin(discrete, shifted.timesteps()).all().item<bool>());
  const Tensor continuous = timesteps(shifted, true);
  EXPECT_LT(at::isin(continuous, shifted.timesteps()).sum().item<int64_t>(), 20);  // equal only by rounding
  // Both are sigma T with sigma = 3 u / (1 + 2 u), where u is uniform.
  for (const Tensor& t : {discrete, continuous}) {
    const Tensor sigma = t / 1000;
    EXPECT_NEAR((sigma / (3 - 2 * sigma)).mean().item<double>(), 0.5, 0.03);
  }
  expect_throws_with<ConfigError>(
      [&] {
        Exposed(make_trainable(TinyNet()), DDPMScheduler(), {.continuous_timesteps = true}).configure({});
      },
      "continuous_timesteps is true");
}

TEST(DiffusionTask, DrawsTimestepsOverTheWholeRange) {
  class Exposed : public DiffusionTask {
   public:
    using DiffusionTask::DiffusionTask;
    using DiffusionTask::draw;
  };
  Exposed task(make_trainable(TinyNet()), DDPMScheduler());
  TrainingConfig config;
  config.noise_offset = 0.5;
  config.input_perturbation = 0.25;
  task.configure(config);
  task.begin_step({.step = 0, .samples = 4000, .generator = make_generator(1)});
  const Tensor x0 = at::zeros({4000, 2, 3, 3});
  const DiffusionTask::Draw drawn = task.draw(x0);

  // The expected numbers are drawn in the order of train_text_to_image.py.
  Generator generator = make_generator(1);
  Tensor noise = at::randn(x0.sizes(), generator);
  noise = noise + 0.5 * at::randn({4000, 2, 1, 1}, generator);
  expect_equal(drawn.noise, noise);
  expect_equal(drawn.input_noise, noise + 0.25 * at::randn(x0.sizes(), generator));
  const Tensor timesteps = at::randint(0, 1000, {4000}, generator, at::kLong);
  expect_equal(drawn.timesteps, timesteps);
  EXPECT_LT(drawn.timesteps.min().item<int64_t>(), 10);
  EXPECT_GT(drawn.timesteps.max().item<int64_t>(), 989);
}

}  // namespace
}  // namespace diffusers
