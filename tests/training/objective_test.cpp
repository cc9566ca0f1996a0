#include <cmath>
#include <limits>
#include <string>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/training/objective.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_throws_with;

TEST(DiffusionLoss, MatchesPython) {
  const test::Golden golden = test::load_golden("training_objective.safetensors");
  const Json cases = parse_json(golden.metadata.at("cases"), "cases");
  ASSERT_GT(cases.size(), 30U);
  for (const Json& one : cases) {
    const auto scheduler = Scheduler::from_config(one.at("scheduler").get<std::string>());
    DiffusionLossOptions options;
    options.loss_type = enum_from_name<LossType>(one.value("loss_type", "l2"), "loss_type");
    options.huber_schedule =
        enum_from_name<HuberSchedule>(one.value("schedule", "constant"), "huber_schedule");
    options.huber_c = one.value("huber_c", 0.1);
    if (one.contains("gamma")) options.snr_gamma = one.at("gamma").get<double>();
    const auto loss = [&](LossReduction reduction) {
      options.reduction = reduction;
      return diffusion_loss(*scheduler, golden["output"], golden["x0"], golden["noise"], golden["timesteps"],
                            options);
    };
    const Tensor expected = golden[one.at("name").get<std::string>()];
    const std::string label = one.dump();
    expect_close(loss(LossReduction::kNone), expected, 1e-5, 1e-7, label);
    expect_close(loss(LossReduction::kMean), expected.mean(), 1e-5, 1e-7, label);
    expect_close(loss(LossReduction::kSum), expected.sum(), 1e-5, 1e-7, label);
  }
}

TEST(ComputeSnr, MatchesPython) {
  const test::Golden golden = test::load_golden("training_objective.safetensors");
  for (const BetaSchedule schedule :
       {BetaSchedule::kLinear, BetaSchedule::kScaledLinear, BetaSchedule::kSquaredcosCapV2}) {
    const DDPMScheduler scheduler({.beta_schedule = schedule});
    expect_close(compute_snr(scheduler, at::arange(1000)), golden["snr." + std::string(enum_name(schedule))],
                 1e-5, 0);
  }
}

TEST(TimestepDensity, MatchesPython) {
  const test::Golden golden = test::load_golden("training_objective.safetensors");
  for (const char* scheme : {"logit_normal", "mode", "none"}) {
    const Tensor density = compute_density_for_timestep_sampling(
        scheme, 9, {.logit_mean = 0.1, .logit_std = 0.8, .mode_scale = 1.29, .generator = make_generator(3)});
    expect_close(density, golden[std::string("density.") + scheme], 1e-5, 1e-7, scheme);
  }
  for (const char* scheme : {"sigma_sqrt", "cosmap", "none"})
    expect_close(compute_loss_weighting_for_sd3(scheme, golden["sigmas"]),
                 golden[std::string("weighting.") + scheme], 1e-5, 1e-7, scheme);
}

// The same error of x_0, seen by each prediction type, must weigh the same: that is what min-SNR means.
TEST(MinSnr, WeighsTheSameErrorTheSameForEveryPredictionType) {
  const Tensor t = at::arange(1000);
  const Tensor abar = DDPMScheduler().alphas_cumprod().to(at::kDouble);
  const Tensor snr = abar / (1 - abar);
  const auto weights = [&](PredictionType type) {
    const DDPMScheduler scheduler({.prediction_type = type});
    return DiffusionObjective(scheduler, {.snr_gamma = 5.0}).weights(t).to(at::kDouble);
  };
  // An error d of x_0 is an error sqrt(SNR) d of epsilon and sqrt(SNR + 1) d of v.
  const Tensor in_x0_space = weights(PredictionType::kSample);
  expect_close(in_x0_space, snr.clamp_max(5.0), 1e-6, 0);
  expect_close(weights(PredictionType::kEpsilon) * snr, in_x0_space, 1e-6, 0);
  expect_close(weights(PredictionType::kVPrediction) * (snr + 1), in_x0_space, 1e-6, 0);
}

TEST(MinSnr, RefusesEpsilonWhereTheSnrIsZero) {
  const DDPMScheduler epsilon({.rescale_betas_zero_snr = true});
  expect_throws_with<ConfigError>([&] { DiffusionObjective(epsilon, {.snr_gamma = 5.0}); }, "snr_gamma");
  const DDPMScheduler velocity(
      {.prediction_type = PredictionType::kVPrediction, .rescale_betas_zero_snr = true});
  const Tensor weights = DiffusionObjective(velocity, {.snr_gamma = 5.0}).weights(at::arange(1000));
  EXPECT_TRUE(weights.isfinite().all().item<bool>());
}

TEST(DiffusionLoss, BackwardReachesTheModelOutput) {
  const Tensor x0 = at::randn({2, 1, 3, 3});
  const Tensor output = at::zeros_like(x0).requires_grad_();
  diffusion_loss(DDPMScheduler(), output, x0, at::ones_like(x0), at::tensor({3, 7})).backward();
  expect_close(output.grad(), at::full({2, 1, 3, 3}, -2.0 / 18), 1e-6, 0);
}

TEST(DiffusionLoss, ComputesHalfPrecisionInFloat32) {
  const Tensor x0 = at::ones({1, 1, 2, 2}, at::kBFloat16);
  const Tensor loss = diffusion_loss(DDPMScheduler(), x0 * 3, x0, x0 * 2, at::tensor({5}));
  EXPECT_EQ(loss.scalar_type(), at::kFloat);
  EXPECT_EQ(loss.item<float>(), 1.0F);
}

TEST(DiffusionLoss, NamesBothSidesOfAMismatch) {
  const DDPMScheduler scheduler;
  const Tensor x0 = at::zeros({2, 1, 4, 4});
  const Tensor t = at::tensor({1, 2});
  const auto loss = [&](const Tensor& output, const Tensor& noise, const Tensor& timesteps) {
    return [=, &scheduler] { diffusion_loss(scheduler, output, x0, noise, timesteps); };
  };
  expect_throws_with<TensorError>(loss(at::zeros({2, 2, 4, 4}), x0, t), "[2, 2, 4, 4]");
  expect_throws_with<TensorError>(loss(x0, at::zeros({2, 1, 4, 5}), t), "[2, 1, 4, 5]");
  expect_throws_with<TensorError>(loss(x0, at::zeros({2, 1, 4, 4}, at::kLong), t), "int64");
  expect_throws_with<TensorError>(loss(Tensor(), x0, t), "undefined");
  expect_throws_with<TensorError>(loss(x0, x0, at::tensor({1, 2, 3})), "[3]");
  expect_throws_with<TensorError>(loss(x0, x0, at::tensor({0.5, 0.5})), "integral");
  expect_throws_with<TensorError>(loss(x0, x0, at::tensor({1, 1000})), "1000");
}

TEST(DiffusionLoss, RefusesSenselessOptions) {
  const DDPMScheduler scheduler;
  const auto objective = [&](DiffusionLossOptions options) {
    return [=, &scheduler] { DiffusionObjective(scheduler, options); };
  };
  expect_throws_with<ConfigError>(objective({.snr_gamma = 0.0}), "snr_gamma is 0");
  expect_throws_with<ConfigError>(objective({.snr_gamma = std::nan("")}), "snr_gamma is nan");
  expect_throws_with<ConfigError>(objective({.huber_c = -1.0}), "huber_c is -1");
}

}  // namespace
}  // namespace diffusers
