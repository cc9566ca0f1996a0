#include <cmath>

#include <diffusers/core/random.h>
#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/training/edm.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "support/golden.h"
#include "training/formula_model.h"

namespace diffusers {
namespace {

using test::batch_of;
using test::expect_close;
using test::expect_equal;
using test::Formula;
using test::formula_model;
using test::GivenEDMTask;

TEST(EDMProcess, HasNoLossWhereThePredictionIsPerfect) {
  const EDMPreconditioner edm;
  const Tensor x0 = at::linspace(-1, 1, 24, at::kDouble).view({2, 1, 3, 4});
  const Tensor noise = (17 * x0).sin();
  const Tensor sigma = at::tensor({0.01, 7.0}, at::kDouble);
  Tensor target = edm.target(x0, noise, sigma);
  const auto perfect = [&](const Tensor&, const Tensor&) { return target; };
  GivenEDMTask task(perfect, {}, sigma, noise);
  expect_equal(task.loss(batch_of(x0), 0).loss, at::zeros({2}, at::kDouble));
  const Denoiser model = formula_model(perfect).denoise;
  expect_close(edm.denoise(model, x0 + sigma.view({2, 1, 1, 1}) * noise, sigma), x0, 1e-12, 1e-12);
}

/// Data x_0 ~ N(mean, deviation^2), whose ideal denoiser is known, and the F that follows from it.
struct GaussianData {
  double mean = 0.3;
  double deviation = 0.8;  // differs from sigma_data, for which F would be 0 everywhere

  Tensor denoised(const Tensor& x, const Tensor& sigma) const {
    const Tensor variance = sigma * sigma;
    return (deviation * deviation * x + variance * mean) / (deviation * deviation + variance);
  }
  Formula best_model(const EDMPreconditioner& edm) const {
    return [*this, edm](const Tensor& input, const Tensor& c_noise) {
      const Tensor sigma = (4 * c_noise.to(at::kDouble)).exp().view({-1, 1, 1, 1});
      const Tensor x = input / edm.c_in(sigma);
      return (denoised(x, sigma) - edm.c_skip(sigma) * x) / edm.c_out(sigma);
    };
  }
};

TEST(EDMProcess, HasTheLossOfTheBestDenoiserOnGaussianData) {
  const GaussianData data;
  const Generator generator = make_generator(5);
  const Tensor sigma = at::tensor({0.05, 0.5, 10.0}, at::kDouble);
  const Tensor x0 = data.mean + data.deviation * at::randn({3, 1, 200, 200}, generator, at::kDouble);
  const Tensor noise = at::randn(x0.sizes(), generator, at::kDouble);
  const EDMPreconditioner edm;
  GivenEDMTask task(data.best_model(edm), {}, sigma, noise);
  // The expected loss is lambda times the variance of x_0 given x. The tolerance allows for a mean of 40000
  // squares.
  const double s2 = data.deviation * data.deviation;
  const Tensor variance = s2 * sigma * sigma / (s2 + sigma * sigma);
  expect_close(task.loss(batch_of(x0), 0).loss, edm.loss_weight(sigma) * variance, 0.03, 0);
}

TEST(EDMTask, TheBestModelSamplesTheDataWithItsScheduler) {
  const GaussianData data;
  const EDMTask task(formula_model(data.best_model(EDMPreconditioner())));
  EDMEulerScheduler scheduler = task.scheduler();
  const Denoiser model = formula_model(data.best_model(task.preconditioner())).denoise;
  scheduler.set_timesteps(200);
  const Tensor start = scheduler.init_noise_sigma() * at::randn({64, 1, 16, 16}, make_generator(1));
  Tensor x = start;
  for (const Tensor& t : scheduler.timesteps()) {
    const Tensor output = model(scheduler.scale_model_input(x, t), t.expand({64}), {});
    x = scheduler.step(output.to(at::kFloat), t, x).prev_sample;
  }
  // The factor by which Euler steps of the flow dx/dsigma = (x - D) / sigma change x - mean. The flow is
  // linear here.
  const Tensor sigmas = scheduler.sigmas().to(at::kDouble);
  const double* sigma = sigmas.const_data_ptr<double>();
  double factor = 1;
  for (int64_t i = 0; i + 1 < sigmas.numel(); ++i)
    factor *=
        1 + (sigma[i + 1] - sigma[i]) * sigma[i] / (data.deviation * data.deviation + sigma[i] * sigma[i]);
  expect_close(x, data.mean + factor * (start - data.mean), 1e-4, 1e-4);
  // The result has the distribution of the data, up to the error of the steps and of 16384 samples.
  EXPECT_NEAR(x.std().item<double>(), data.deviation, 0.03);
  EXPECT_NEAR(x.mean().item<double>(), data.mean, 0.03);
}

}  // namespace
}  // namespace diffusers
