#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/training/objective.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "core/require.h"
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

constexpr std::array kPredictionTypes{PredictionType::kEpsilon, PredictionType::kSample,
                                      PredictionType::kVPrediction};

/// Returns each weighting by its name in the golden file, with options that are not the defaults.
std::vector<std::pair<std::string, DiffusionLossOptions>> weightings() {
  return {{"min_snr", {.snr_gamma = 5.0}},
          {"soft_min_snr", {.weighting = LossWeighting::kSoftMinSnr}},
          {"p2", {.weighting = LossWeighting::kP2, .p2_gamma = 1.3, .p2_k = 0.7}},
          {"edm", {.weighting = LossWeighting::kEdm, .sigma_data = 0.6}},
          {"debiased", {.weighting = LossWeighting::kDebiased}},
          {"truncated_snr", {.weighting = LossWeighting::kTruncatedSnr}}};
}

TEST(LossWeighting, MatchesPythonForEveryPredictionType) {
  const test::Golden golden = test::load_golden("objective.safetensors");
  const Tensor t = at::arange(0, 1000, 27);
  for (const BetaSchedule schedule :
       {BetaSchedule::kLinear, BetaSchedule::kScaledLinear, BetaSchedule::kSquaredcosCapV2}) {
    for (const PredictionType type : kPredictionTypes) {
      const DDPMScheduler scheduler({.beta_schedule = schedule, .prediction_type = type});
      const auto golden_of = [&](const std::string& weighting) {
        return golden[fmt::format("{}.{}.{}", enum_name(schedule), weighting, enum_name(type))];
      };
      for (const auto& entry : weightings())
        expect_close(DiffusionObjective(scheduler, entry.second).weights(t), golden_of(entry.first), 1e-10, 0,
                     entry.first);
      // LDM's variational weight, computed as the loss of an error of 1.
      const Tensor x0 = at::zeros({t.size(0), 1}, at::kDouble);
      const DiffusionObjective objective(
          scheduler,
          {.reduction = LossReduction::kNone, .l_simple_weight = 0.0, .original_elbo_weight = 1.0});
      const Tensor error = objective(objective.target(x0, x0, t) + 1, x0, x0, t);
      // The difference of two SNRs, which the golden file computes as a product, has fewer accurate digits if
      // they are close.
      expect_close(error, golden_of("lvlb"), 1e-8, 0, "lvlb");
    }
  }
}

// The same error of x_0 must have the same weight for each prediction type.
TEST(LossWeighting, CountsTheSameErrorOfX0TheSameForEveryPredictionType) {
  const Tensor t = at::arange(1000);
  for (const BetaSchedule schedule :
       {BetaSchedule::kLinear, BetaSchedule::kScaledLinear, BetaSchedule::kSigmoid,
        BetaSchedule::kSquaredcosCapV2, BetaSchedule::kLaplace}) {
    const Tensor abar = DDPMScheduler({.beta_schedule = schedule}).alphas_cumprod().to(at::kDouble);
    // An error d of x_0 equals an error sqrt(SNR) d of epsilon and an error d / sigma of v.
    const std::vector<Tensor> squared_error{abar / (1 - abar), at::ones_like(abar), 1 / (1 - abar)};
    std::vector<std::pair<std::string, DiffusionLossOptions>> cases = weightings();
    cases.emplace_back("elbo", DiffusionLossOptions{.l_simple_weight = 0.0, .original_elbo_weight = 1.0});
    for (const auto& entry : cases) {
      std::vector<Tensor> losses;
      for (std::size_t i = 0; i < kPredictionTypes.size(); ++i) {
        DiffusionLossOptions options = entry.second;
        options.reduction = LossReduction::kNone;
        const DDPMScheduler scheduler({.beta_schedule = schedule, .prediction_type = kPredictionTypes[i]});
        const DiffusionObjective objective(scheduler, options);
        const Tensor zero = at::zeros({1000, 1}, at::kDouble);
        losses.push_back(objective(squared_error[i].sqrt().unsqueeze(1), zero, zero, t));
      }
      const std::string label = fmt::format("{} {}", entry.first, enum_name(schedule));
      expect_close(losses[0], losses[1], 1e-10, 0, label);
      expect_close(losses[2], losses[1], 1e-10, 0, label);
    }
  }
}

TEST(LossWeighting, CarriesToFlowMatching) {
  const FlowMatchEulerDiscreteScheduler scheduler;
  const Tensor sigma = at::linspace(0.001, 0.999, 999, at::kDouble);
  const Tensor snr = ((1 - sigma) / sigma).square();
  const auto of_x0 = [&](const DiffusionLossOptions& options) {
    return DiffusionObjective(scheduler, options).weights(sigma * 1000) / sigma.square();
  };
  expect_close(of_x0({.snr_gamma = 5.0}), snr.clamp_max(5.0), 1e-10, 0);
  expect_close(of_x0({.weighting = LossWeighting::kP2, .p2_gamma = 0.5, .p2_k = 2.0}), snr / (2 + snr).sqrt(),
               1e-10, 0);
  expect_close(of_x0({.weighting = LossWeighting::kDebiased}), (1 - sigma) / sigma, 1e-10, 0);
  for (const auto& entry : weightings()) {
    const Tensor ends = DiffusionObjective(scheduler, entry.second).weights(at::tensor({0.0, 1000.0}));
    EXPECT_TRUE(ends.isfinite().all().item<bool>()) << entry.first;
  }
}

TEST(LossWeighting, HasTheLimitsOfItsFormulaAtBothEnds) {
  // A custom schedule from almost no noise to almost pure noise.
  const std::vector<double> betas{1e-6, 0.5, 0.999999};
  const auto of_x0 = [&](const DiffusionLossOptions& options) {
    const DDPMScheduler scheduler(
        {.num_train_timesteps = 3, .trained_betas = betas, .prediction_type = PredictionType::kSample});
    return DiffusionObjective(scheduler, options).weights(at::arange(3));
  };
  const auto first = [](const Tensor& weights) { return weights[0].item<double>(); };
  const auto last = [](const Tensor& weights) { return weights[2].item<double>(); };
  EXPECT_DOUBLE_EQ(first(of_x0({.snr_gamma = 5.0})), 5.0);
  EXPECT_NEAR(last(of_x0({.snr_gamma = 5.0})), 0.0, 1e-6);
  EXPECT_NEAR(first(of_x0({.weighting = LossWeighting::kSoftMinSnr})), 5.0, 1e-4);
  EXPECT_NEAR(last(of_x0({.weighting = LossWeighting::kTruncatedSnr})), 1.0, 1e-12);
  EXPECT_NEAR(last(of_x0({.weighting = LossWeighting::kEdm})), 4.0, 1e-5);
  EXPECT_NEAR(first(of_x0({.weighting = LossWeighting::kP2})), 1.0, 1e-5);
}

TEST(LossWeighting, HasAFiniteGradientOnEveryTimestepOfEverySchedule) {
  const Tensor t = at::arange(1000);
  for (const BetaSchedule schedule :
       {BetaSchedule::kLinear, BetaSchedule::kScaledLinear, BetaSchedule::kSigmoid,
        BetaSchedule::kSquaredcosCapV2, BetaSchedule::kLaplace}) {
    for (const PredictionType type : kPredictionTypes) {
      for (const bool zero_snr : {false, true}) {
        if (zero_snr && type == PredictionType::kEpsilon) continue;  // refused, see below
        const DDPMScheduler scheduler(
            {.beta_schedule = schedule, .prediction_type = type, .rescale_betas_zero_snr = zero_snr});
        for (auto& entry : weightings()) {
          entry.second.original_elbo_weight = 0.001;
          const Tensor x0 = at::ones({1000, 1});
          const Tensor output = at::full({1000, 1}, 0.3).requires_grad_();
          diffusion_loss(scheduler, output, x0, -x0, t, entry.second).backward();
          EXPECT_TRUE(output.grad().isfinite().all().item<bool>())
              << entry.first << " " << enum_name(schedule) << " " << enum_name(type) << " " << zero_snr;
        }
      }
    }
  }
}

TEST(LossWeighting, RefusesEpsilonWhereTheSnrIsZero) {
  const DDPMScheduler epsilon({.rescale_betas_zero_snr = true});
  for (const auto& entry : weightings())
    expect_throws_with<ConfigError>([&] { DiffusionObjective(epsilon, entry.second); }, "SNR of zero");
  expect_throws_with<ConfigError>([&] { DiffusionObjective(epsilon, {.original_elbo_weight = 0.1}); },
                                  "original_elbo_weight is 0.1");
}

TEST(LossWeighting, WeighsTheSimpleLossAndTheBoundTogether) {
  const DDPMScheduler scheduler;
  const Tensor x0 = at::randn({3, 2}, at::kDouble);
  const Tensor output = at::randn({3, 2}, at::kDouble);
  const Tensor t = at::tensor({0, 300, 999});
  const auto loss = [&](double simple, double elbo) {
    return diffusion_loss(scheduler, output, x0, -x0, t,
                          {.snr_gamma = 2.0, .l_simple_weight = simple, .original_elbo_weight = elbo});
  };
  expect_close(loss(0.7, 0.1), 0.7 * loss(1, 0) + 0.1 * loss(0, 1), 1e-12, 0);
}

TEST(LearnedLogVariance, DividesTheLossAndIsAddedToIt) {
  const Tensor x0 = at::zeros({2, 1});
  const Tensor t = at::tensor({3, 4});
  const DiffusionObjective objective(DDPMScheduler(), {.reduction = LossReduction::kNone});
  const Tensor u = at::tensor({0.5F, -1.0F}).requires_grad_();
  const Tensor losses = objective(at::full({2, 1}, 3.0F), x0, x0, t, u);
  expect_close(losses, 9 * (-u).exp() + u, 1e-6, 0);
  losses.sum().backward();
  // The gradient is zero if u is the logarithm of the loss.
  expect_close(u.grad(), 1 - 9 * (-u).exp(), 1e-6, 1e-6);
  expect_throws_with<TensorError>([&] { objective(x0, x0, x0, t, at::zeros({3})); }, "log_variance");
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
  expect_throws_with<ConfigError>(objective({.snr_gamma = 5.0, .weighting = LossWeighting::kP2}),
                                  "weighting is \"p2\"");
  expect_throws_with<ConfigError>(objective({.p2_gamma = -1.0}), "p2_gamma is -1");
  expect_throws_with<ConfigError>(objective({.p2_k = 0.0}), "p2_k is 0");
  expect_throws_with<ConfigError>(objective({.sigma_data = 0.0}), "sigma_data is 0");
  expect_throws_with<ConfigError>(objective({.l_simple_weight = 0.0}), "nothing to minimise");
  expect_throws_with<ConfigError>(objective({.vlb_weight = 1.0}), "vlb_weight is 1");
  const FlowMatchEulerDiscreteScheduler flow;
  expect_throws_with<ConfigError>([&] { DiffusionObjective(flow, {.original_elbo_weight = 1.0}); },
                                  "original_elbo_weight is 1");
}

}  // namespace
}  // namespace diffusers
