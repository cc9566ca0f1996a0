// ddim_encode and stochastic_encode of sampling_loop.h.

#include <cmath>
#include <vector>

#include <diffusers/pipelines/sampling_loop.h>
#include <diffusers/schedulers/ddim_inverse_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/schedulers/heun_discrete_scheduler.h>

#include <ATen/ATen.h>

#include "pipelines/smooth_model.h"
#include "support/golden.h"

namespace diffusers::test {
namespace {

TEST(Encoding, FollowsDDIMInverse) {
  const DDIMScheduler scheduler = latent_ddim(false);
  DDIMInverseScheduler inverse = DDIMInverseScheduler::from_config(scheduler.config_json());
  inverse.set_timesteps(10);
  expect_close(ddim_encode(scheduler, smooth_model, drawn(1)),
               sampling_loop(inverse, smooth_model, drawn(1)));
}

TEST(Encoding, DecodesFromTheMiddleToTheStart) {
  const Tensor x0 = drawn(1);
  // The model's output is small, so encoding and decoding agree after few steps.
  const SamplingModel model = [](const Tensor& x, const Tensor& t) {
    return 0.2 * x + 0.1 * (x + t.to(at::kFloat) * 0.001).sin();
  };
  for (const bool quadratic : {false, true}) {
    SCOPED_TRACE(quadratic);
    double coarse = 0;
    for (const int64_t n : {25, 50, 100}) {
      DDIMScheduler scheduler = latent_ddim(quadratic, n);
      const int64_t count = scheduler.timesteps().size(0);
      const int64_t half = count / 2;
      const Tensor encoded = ddim_encode(scheduler, model, x0, half);
      EXPECT_GT((encoded - x0).abs().max().item<double>(), 0.1);
      const Tensor decoded = sampling_loop(scheduler, model, encoded, {.start_step = count - half});
      const double error = (decoded - x0).abs().max().item<double>();
      EXPECT_LT(error, 0.05);
      if (coarse > 0) {
        EXPECT_LT(error, 0.7 * coarse);
      }
      coarse = error;
    }
  }
}

TEST(Encoding, HasAPredictionOfAnyType) {
  // The same x_0 and epsilon in three prediction types encode to the same noise.
  const Tensor x0 = drawn(1);
  const Tensor epsilon = drawn(2);
  std::vector<Tensor> encoded;
  for (const auto type : {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction}) {
    DDIMScheduler scheduler({.clip_sample = false, .set_alpha_to_one = false, .prediction_type = type});
    scheduler.set_timesteps(20);
    const Tensor abar = scheduler.alphas_cumprod();
    float now = abar[0].item<float>();
    const SamplingModel model = [&](const Tensor& x, const Tensor& t) {
      const Tensor x_start = (x - std::sqrt(1 - now) * epsilon) / std::sqrt(now);
      const Tensor v = std::sqrt(now) * epsilon - std::sqrt(1 - now) * x_start;
      now = abar[t.item<int64_t>()].item<float>();
      return type == PredictionType::kEpsilon ? epsilon : type == PredictionType::kSample ? x_start : v;
    };
    encoded.push_back(ddim_encode(scheduler, model, x0));
  }
  expect_close(encoded[1], encoded[0], 1e-4, 1e-4);
  expect_close(encoded[2], encoded[0], 1e-4, 1e-4);
}

TEST(Encoding, NoisesToAnyStepAndDecodesFromThere) {
  EulerDiscreteScheduler scheduler;
  scheduler.set_timesteps(10);
  const Tensor x0 = drawn(1);
  const Tensor encoded = stochastic_encode(scheduler, x0, 4, make_generator(9));
  expect_close(encoded, x0 + scheduler.sigmas()[4] * randn_tensor(kLoopShape, make_generator(9)));
  int64_t calls = 0;
  const SamplingModel counted = [&](const Tensor& x, const Tensor& t) {
    ++calls;
    return smooth_model(x, t);
  };
  sampling_loop(scheduler, counted, encoded, {.start_step = 4});
  EXPECT_EQ(calls, 6);
  HeunDiscreteScheduler heun;
  heun.set_timesteps(10);
  calls = 0;
  sampling_loop(heun, counted, stochastic_encode(heun, x0, 8, make_generator(9)), {.start_step = 8});
  EXPECT_EQ(calls, 11);
}

TEST(Encoding, NamesWhatCannotWork) {
  DDIMScheduler ddim = latent_ddim(false);
  const Tensor x = drawn(1);
  expect_throws_with<ConfigError>([&] { ddim_encode(ddim, smooth_model, x, 11); }, "num_steps is 11");
  expect_throws_with<ConfigError>([&] { stochastic_encode(ddim, x, -1); }, "start_step is -1");
  DDIMScheduler clean({.prediction_type = PredictionType::kSample});
  clean.set_timesteps(3);
  expect_throws_with<ConfigError>([&] { ddim_encode(clean, smooth_model, x); }, "set_alpha_to_one");
}

}  // namespace
}  // namespace diffusers::test
