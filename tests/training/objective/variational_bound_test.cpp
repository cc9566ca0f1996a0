#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/training/objective.h>
#include <diffusers/training/variational_bound.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_throws_with;

DDPMScheduler scheduler_of(const Json& one) {
  return DDPMScheduler(
      {.variance_type = enum_from_name<VarianceType>(one.at("variance_type").get<std::string>(), ""),
       .prediction_type = enum_from_name<PredictionType>(one.at("prediction_type").get<std::string>(), "")});
}

TEST(VariationalBound, MatchesPythonsDistributions) {
  const test::Golden golden = test::load_golden("objective.safetensors");
  const Json cases = parse_json(golden.metadata.at("cases"), "cases");
  ASSERT_EQ(cases.size(), 12U);
  const Tensor& x0 = golden["x0"];
  const Tensor& t = golden["timesteps"];
  for (const Json& one : cases) {
    const auto name = one.at("name").get<std::string>();
    const DDPMScheduler scheduler = scheduler_of(one);
    const VariationalBound bound(scheduler);
    Tensor output = golden[name + ".output"];
    if (!bound.has_learned_variance()) output = output.narrow(1, 0, 2);
    const Tensor abar = scheduler.alphas_cumprod().to(at::kDouble).index({t}).view({-1, 1, 1, 1});
    const Tensor x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * golden["noise"];
    expect_close(bound.term(output, x0, x_t, t), golden[name + ".bits"], 1e-10, 0, name);
  }
}

TEST(HybridLoss, MatchesPythonWithItsGradient) {
  const test::Golden golden = test::load_golden("objective.safetensors");
  const Json cases = parse_json(golden.metadata.at("cases"), "cases");
  int compared = 0;
  for (const Json& one : cases) {
    const auto name = one.at("name").get<std::string>();
    if (!golden.contains(name + ".hybrid")) continue;
    ++compared;
    const Tensor output = golden[name + ".output"].clone().requires_grad_();
    const DiffusionObjective objective(scheduler_of(one), {.reduction = LossReduction::kNone});
    EXPECT_TRUE(objective.has_learned_variance());
    const Tensor losses = objective(output, golden["x0"], golden["noise"], golden["timesteps"]);
    // add_noise and get_velocity use float32 tables, but the golden file uses float64.
    expect_close(losses, golden[name + ".hybrid"], 1e-5, 1e-6, name);
    losses.mean().backward();
    expect_close(output.grad(), golden[name + ".gradient"], 1e-5, 1e-6, name);
  }
  EXPECT_EQ(compared, 6);
}

TEST(HybridLoss, TrainsTheVarianceThroughTheBoundAlone) {
  const DDPMScheduler scheduler({.variance_type = VarianceType::kLearnedRange});
  const Tensor x0 = at::rand({2, 1, 2, 2}) * 2 - 1;
  const Tensor noise = at::randn_like(x0);
  const Tensor t = at::tensor({0, 500});
  const Tensor output = at::zeros({2, 2, 2, 2}).requires_grad_();
  DiffusionObjective(scheduler, {.vlb_weight = 1.0})(output, x0, noise, t).backward();
  const Tensor simple = at::zeros({2, 1, 2, 2}).requires_grad_();
  DiffusionObjective(DDPMScheduler{})(simple, x0, noise, t).backward();
  // The gradient of the mean is that of the simple loss. The variance has a separate gradient.
  expect_close(output.grad().narrow(1, 0, 1), simple.grad(), 1e-6, 0);
  EXPECT_TRUE((output.grad().narrow(1, 1, 1) != 0).all().item<bool>());

  const auto loss = [&](double weight) {
    return DiffusionObjective(scheduler, {.vlb_weight = weight})(output, x0, noise, t).item<double>();
  };
  EXPECT_NEAR(loss(0.5) - loss(0), 0.5 * (loss(1) - loss(0)), 1e-5);
  EXPECT_EQ(DiffusionObjective(scheduler)(output, x0, noise, t).item<double>(), loss(1));
  expect_throws_with<TensorError>([&] { DiffusionObjective{scheduler}(simple, x0, noise, t); },
                                  "twice the channels");
}

// An untrained network may predict a negative variance. The loss must be finite, and its gradient must
// increase the variance.
TEST(HybridLoss, LeadsANegativeVarianceUp) {
  const DDPMScheduler scheduler({.variance_type = VarianceType::kLearned});
  const Tensor x0 = at::full({1, 1, 1, 1}, 0.5);
  const Tensor output = at::tensor({0.0F, -0.1F}).view({1, 2, 1, 1}).clone().requires_grad_();
  const Tensor loss = DiffusionObjective(scheduler)(output, x0, at::ones_like(x0), at::tensor({400}));
  EXPECT_TRUE(std::isfinite(loss.item<double>()));
  loss.backward();
  EXPECT_LT(output.grad()[0][1].item<double>(), 0.0);
}

// For x_0 ~ N(0, s^2) the ideal denoiser is linear, and every KL has a closed form in the variance of its
// error.
TEST(VariationalBound, EqualsTheClosedFormOnAGaussian) {
  constexpr double kDeviation = 0.6;
  constexpr double kVariance = kDeviation * kDeviation;
  // All terms except the decoder's are quadratic in x_0 and the noise, so two values of each with the correct
  // variance give the exact expectation.
  const Tensor x0 = at::tensor({1.0, 1.0, -1.0, -1.0}, at::kDouble) * kDeviation;
  const Tensor noise = at::tensor({1.0, -1.0, 1.0, -1.0}, at::kDouble);
  for (const PredictionType type :
       {PredictionType::kEpsilon, PredictionType::kSample, PredictionType::kVPrediction}) {
    const DDPMScheduler scheduler({.num_train_timesteps = 50, .beta_end = 0.2, .prediction_type = type});
    const VariationalBound bound(scheduler);
    const Tensor abar_table = scheduler.alphas_cumprod().to(at::kDouble);
    for (int64_t step = 1; step < 50; ++step) {
      const double abar = abar_table[step].item<double>();
      const double before = abar_table[step - 1].item<double>();
      const Tensor x_t = std::sqrt(abar) * x0 + std::sqrt(1 - abar) * noise;
      // E[x_0 | x_t] and Var[x_0 | x_t].
      const double total = abar * kVariance + 1 - abar;
      const Tensor x0_hat = std::sqrt(abar) * kVariance / total * x_t;
      const double error = kVariance * (1 - abar) / total;
      const Tensor epsilon = (x_t - std::sqrt(abar) * x0_hat) / std::sqrt(1 - abar);
      const Tensor output = type == PredictionType::kEpsilon ? epsilon
                            : type == PredictionType::kSample
                                ? x0_hat
                                : std::sqrt(abar) * epsilon - std::sqrt(1 - abar) * x0_hat;
      // If the model has the posterior's variance, a term is (SNR_{t-1} - SNR_t) / 2 times the squared error
      // of x_0.
      const double nats = 0.5 * (before / (1 - before) - abar / (1 - abar)) * error;
      const Tensor bits = bound.term(output, x0, x_t, at::full({4}, step, at::kLong)).mean();
      EXPECT_NEAR(bits.item<double>(), nats / std::numbers::ln2, 1e-10 * nats) << step;
    }
    const double abar = abar_table[-1].item<double>();
    const double prior = 0.5 * (abar * kVariance - abar - std::log1p(-abar));
    EXPECT_NEAR(bound.prior(x0).mean().item<double>(), prior / std::numbers::ln2, 1e-12);
  }
}

// With the ideal variance, the reverse process is exact, and the bound equals -log p(x_0).
TEST(VariationalBound, IsTheEntropyOfAGaussianAtItsOptimum) {
  constexpr double kVariance = 0.09;
  // The expected value is the differential entropy minus the logarithm of the level width 2 / 255.
  const double entropy =
      (0.5 * std::log(2 * std::numbers::pi * std::numbers::e * kVariance) - std::log(2.0 / 255)) /
      std::numbers::ln2;
  const DDPMScheduler scheduler({.num_train_timesteps = 200,
                                 .beta_end = 0.1,
                                 .variance_type = VarianceType::kLearned,
                                 .prediction_type = PredictionType::kSample});
  const Tensor abar = scheduler.alphas_cumprod().to(at::kDouble);
  const Tensor before = at::cat({at::ones({1}, at::kDouble), abar.slice(0, 0, 199)});
  const Tensor beta = 1 - abar / before;
  const auto best = [&](const Tensor& x_t, const Tensor& t) {
    const auto of_t = [&](const Tensor& table) { return table.index({t}).unsqueeze(1); };
    const Tensor a = of_t(abar), b = of_t(before), total = a * kVariance + 1 - a;
    const Tensor error = kVariance * (1 - a) / total;  // Var[x_0 | x_t]
    const Tensor variance =
        of_t(beta) * (1 - b) / (1 - a) + (b.sqrt() * of_t(beta) / (1 - a)).square() * error;
    return at::cat({a.sqrt() * kVariance / total * x_t, variance.expand_as(x_t)}, 1);
  };
  const Generator generator = make_generator(3);
  Tensor x0 = at::randn({4, 4000}, generator, at::kDouble);
  x0 = x0 * std::sqrt(kVariance) / x0.square().mean().sqrt();
  x0 = (x0 * 127.5 + 127.5).round() / 127.5 - 1;
  ASSERT_LE(x0.abs().max().item<double>(), 1.3);
  const BitsPerDimension bits = VariationalBound(scheduler)(best, x0.clamp(-1, 1), generator);
  EXPECT_EQ(bits.terms.sizes(), (std::vector<int64_t>{4, 200}));
  expect_close(bits.total, bits.prior + bits.terms.sum(1), 1e-12, 0);
  // The remaining difference is the sampling noise of 16,000 numbers.
  EXPECT_NEAR(bits.total.mean().item<double>(), entropy, 0.02);
}

TEST(DiscretizedGaussian, SharesOutAProbabilityOfOne) {
  const Tensor levels = at::arange(256, at::kDouble) / 127.5 - 1;
  for (const double mean : {-1.2, 0.1, 0.9}) {
    const Tensor means = at::full_like(levels, mean);
    const Tensor log_likelihood =
        discretized_gaussian_log_likelihood(levels, means, at::full_like(levels, std::log(0.05)));
    EXPECT_NEAR(log_likelihood.exp().sum().item<double>(), 1.0, 1e-9);
  }
}

TEST(VariationalBound, RefusesWhatHasNone) {
  expect_throws_with<ConfigError>([] { VariationalBound{FlowMatchEulerDiscreteScheduler{}}; },
                                  "flow_prediction");
  expect_throws_with<ConfigError>([] { VariationalBound(DDPMScheduler({.rescale_betas_zero_snr = true})); },
                                  "rescale_betas_zero_snr");
}

}  // namespace
}  // namespace diffusers
