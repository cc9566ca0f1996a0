#include <vector>

#include <diffusers/core/error.h>
#include <diffusers/core/random.h>
#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/ddpm_pipeline.h>
#include <diffusers/pipelines/denoise.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/heun_discrete_scheduler.h>
#include <diffusers/schedulers/pndm_scheduler.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "pipelines/small_unet.h"
#include "support/golden.h"

namespace diffusers {
namespace {

DDPMPipeline denoise_pipeline(const Scheduler& scheduler, int64_t steps) {
  DDPMPipeline pipeline(UNet2DModel(test::small_unet_config()), scheduler);
  pipeline.scheduler().set_timesteps(steps);
  return pipeline;
}

Tensor shrunk(const Tensor& sample, const Tensor&, const Conditioning&) { return 0.1 * sample; }

TEST(Denoise, IsTheSamplingLoopWithThePipelinesScheduler) {
  DDPMPipeline pipeline = denoise_pipeline(DDIMScheduler(), 5);
  const auto scheduler = pipeline.scheduler().clone();
  const Tensor noise = randn_tensor({2, 1, 8, 8}, make_generator(1));
  const SamplingLoopOptions options{.step = {.eta = 0.5, .generator = make_generator(2)}};
  const Tensor images = denoise(pipeline, shrunk, {}, noise, 5, {}, options);
  EXPECT_TRUE(images.equal(
      sampling_loop(*scheduler, shrunk, {}, noise, {.step = {.eta = 0.5, .generator = make_generator(2)}})));
}

TEST(Denoise, CountsStepsFromTheStart) {
  DDPMPipeline pipeline = denoise_pipeline(DDIMScheduler(), 5);
  const Tensor noise = randn_tensor({1, 1, 8, 8}, make_generator(1));
  std::vector<int64_t> steps;
  std::vector<int64_t> positions;
  std::vector<int64_t> timesteps;
  denoise(
      pipeline, shrunk, {}, noise, 3,
      [&](int64_t step, const Tensor& t, Tensor&) {
        steps.push_back(step);
        timesteps.push_back(t.item<int64_t>());
      },
      {.callback = [&](int64_t position, const Tensor&, SchedulerOutput&) { positions.push_back(position); },
       .start_step = 2});
  EXPECT_EQ(steps, (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(positions, (std::vector<int64_t>{2, 3, 4}));
  EXPECT_EQ(timesteps, (std::vector<int64_t>{400, 200, 0}));
}

TEST(Denoise, CallsThePipelinesOwnCallbackFirst) {
  DDPMPipeline pipeline = denoise_pipeline(DDIMScheduler(), 2);
  const Tensor noise = randn_tensor({1, 1, 8, 8}, make_generator(1));
  std::vector<double> seen;
  const Tensor last = denoise(pipeline, shrunk, {}, noise, 2,
                              [&](int64_t, const Tensor&, Tensor& sample) {
                                seen.push_back(sample.mean().item<double>());
                                sample = sample + 1;
                              },
                              {.callback = [](int64_t, const Tensor&, SchedulerOutput& output) {
                                output.prev_sample = at::full_like(output.prev_sample, 0.25);
                              }});
  EXPECT_EQ(seen, (std::vector<double>{0.25, 0.25}));
  EXPECT_TRUE(last.eq(1.25).all().item<bool>());
}

TEST(Denoise, RunsEveryTimestepOfAScheduler) {
  DDPMPipeline pipeline = denoise_pipeline(HeunDiscreteScheduler(), 4);
  int64_t calls = 0;
  denoise(pipeline, shrunk, {}, randn_tensor({1, 1, 8, 8}, make_generator(1)), 4,
          [&](int64_t step, const Tensor&, Tensor&) { EXPECT_EQ(step, calls++); });
  EXPECT_EQ(calls, 7);
}

TEST(Denoise, NamesWhatCannotWork) {
  DDPMPipeline pipeline = denoise_pipeline(DDIMScheduler(), 2);
  const Tensor noise = randn_tensor({1, 1, 8, 8}, make_generator(1));
  test::expect_throws_with<ConfigError>([&] { denoise(pipeline, {}, {}, noise, 2); },
                                        "denoiser is an empty function");
  for (const Tensor& wrong : {Tensor(), at::zeros({1, 1, 8, 8}, at::kDouble), at::zeros({1, 1, 8, 9})})
    test::expect_throws_with<TensorError>(
        [&] {
          denoise(pipeline, shrunk, {}, noise, 2,
                  [&](int64_t, const Tensor&, Tensor& sample) { sample = wrong; });
        },
        "callback_on_step_end gave");
  DDPMPipeline fresh(pipeline.unet(), PNDMScheduler());
  test::expect_throws_with<Error>([&] { denoise(fresh, shrunk, {}, noise, 2); }, "call set_timesteps");
}

}  // namespace
}  // namespace diffusers
