#include <cmath>
#include <string>

#include <diffusers/training/pyramid_noise.h>
#include <diffusers/training/timestep_sampler.h>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/json.h"
#include "support/golden.h"

namespace diffusers {
namespace {

using test::expect_close;
using test::expect_equal;
using test::expect_throws_with;

constexpr int64_t kTrainSteps = 1000;

Tensor drawn(const TimestepSamplingOptions& options, int64_t count, int64_t steps = kTrainSteps) {
  return TimestepSampler(steps, options).sample(count, make_generator(4)).timesteps;
}

TEST(TimestepSampler, DrawsWhatPythonDraws) {
  const test::Golden golden = test::load_golden("timesteps.safetensors");
  expect_equal(TimestepSampler(kTrainSteps).sample(40, make_generator(12)).timesteps, golden["uniform.draw"]);
  const Json cases = parse_json(golden.metadata.at("cases"), "cases");
  ASSERT_EQ(cases.size(), 3U);
  for (const Json& one : cases) {
    const auto name = one.at("name").get<std::string>();
    TimestepSampler sampler(kTrainSteps,
                            {.bias = enum_from_name<TimestepBias>(one.at("strategy").get<std::string>(), ""),
                             .bias_multiplier = one.at("multiplier").get<double>(),
                             .bias_begin = one.at("begin").get<int64_t>(),
                             .bias_end = one.at("end").get<int64_t>(),
                             .bias_portion = one.at("portion").get<double>()});
    expect_close(sampler.probabilities(), golden[name + ".weights"], 1e-7, 0, name);
    expect_equal(sampler.sample(40, make_generator(11)).timesteps, golden[name + ".draw"]);
  }
}

TEST(TimestepSampler, DrawsTheCubeOfPythonsAdapterScript) {
  const Tensor u = at::rand({200}, make_generator(4), at::kFloat);
  expect_equal(drawn({.strategy = "cubic"}, 200), ((1 - u.pow(3)) * kTrainSteps).to(at::kLong).clamp(0, 999));
  // The density of t / T = 1 - u^3 has the mean 3 / 4.
  const Tensor t = drawn({.strategy = TimestepSampling::kCubic, .continuous = true}, 40000);
  EXPECT_NEAR(t.mean().item<double>() / kTrainSteps, 0.75, 0.008);  // five standard deviations of the mean
}

TEST(TimestepSampler, TakesOneFromEachStratum) {
  const Tensor t = drawn({.strategy = TimestepSampling::kStratified}, 50);
  EXPECT_FALSE(at::equal(t, std::get<0>(t.sort())));  // timesteps are not sorted by the position in the batch
  expect_equal(std::get<0>(t.sort()).div(20, "floor"), at::arange(50));
}

TEST(TimestepSampler, DrawsPairsThatMirrorEachOther) {
  for (const int64_t count : {8, 9}) {
    const Tensor t = drawn({.strategy = TimestepSampling::kAntithetic}, count);
    ASSERT_EQ(t.size(0), count);
    const int64_t half = count / 2;
    const Tensor first = t.narrow(0, 0, half), mirrored = t.narrow(0, count - half, half);
    expect_equal(first + mirrored, at::full({half}, kTrainSteps - 1, at::kLong));
  }
}

TEST(TimestepSampler, CoversTheWholeRangeAndNoMore) {
  for (const TimestepSampling strategy :
       {TimestepSampling::kUniform, TimestepSampling::kStratified, TimestepSampling::kAntithetic,
        TimestepSampling::kLogitNormal, TimestepSampling::kMode, TimestepSampling::kLossSecondMoment,
        TimestepSampling::kCubic}) {
    TimestepSamplingOptions options{.strategy = strategy};
    if (strategy == TimestepSampling::kLogitNormal)
      options.logit_std = 3.0;  // wide enough to reach the first and the last timestep
    const Tensor t = drawn(options, 4000, 7);
    EXPECT_EQ(t.scalar_type(), at::kLong);
    const Tensor counts = at::bincount(t, {}, 7);
    EXPECT_EQ(counts.size(0), 7) << enum_name(strategy);
    EXPECT_GT(counts.min().item<int64_t>(), 0) << enum_name(strategy);
  }
}

// Chi-square over ten bins (9 degrees of freedom) exceeds 33.7 with probability 1e-4.
double chi_square(const Tensor& values, double range) {
  const Tensor counts =
      at::bincount((values.to(at::kDouble) / range * 10).floor().to(at::kLong), {}, 10).to(at::kDouble);
  const double expected = static_cast<double>(values.numel()) / 10;
  return ((counts - expected).square() / expected).sum().item<double>();
}

TEST(TimestepSampler, IsUniformWhereItSaysSo) {
  EXPECT_LT(chi_square(drawn({}, 20000), kTrainSteps), 33.7);
  EXPECT_LT(chi_square(drawn({.strategy = TimestepSampling::kAntithetic}, 20000), kTrainSteps), 60.0);
  EXPECT_LT(chi_square(drawn({.continuous = true}, 20000), kTrainSteps), 33.7);
  EXPECT_LT(chi_square(drawn({.strategy = TimestepSampling::kStratified}, 20000), kTrainSteps), 1.0);
  EXPECT_GT(chi_square(drawn({.strategy = TimestepSampling::kLogitNormal}, 20000), kTrainSteps), 1000.0);
}

TEST(TimestepSampler, FollowsTheLogitNormalDistribution) {
  const Tensor t = drawn(
      {.strategy = TimestepSampling::kLogitNormal, .logit_mean = -0.5, .logit_std = 0.8, .continuous = true},
      40000);
  EXPECT_EQ(t.scalar_type(), at::kFloat);
  const Tensor logit = at::logit(t.to(at::kDouble) / kTrainSteps);
  EXPECT_NEAR(logit.mean().item<double>(), -0.5, 0.02);  // five standard deviations of the mean
  EXPECT_NEAR(logit.std().item<double>(), 0.8, 0.015);
}

TEST(TimestepSampler, LearnsFromTheLossesAndStaysUnbiased) {
  constexpr int64_t kFew = 20;
  TimestepSampler sampler(kFew, {.strategy = TimestepSampling::kLossSecondMoment});
  const Tensor all = at::arange(kFew);
  const Tensor loss = at::linspace(0.1, 2.0, kFew);
  expect_close(sampler.sample(5, make_generator(1)).weights, at::ones({5}), 1e-6, 0);
  // Sampling is uniform until each timestep has ten losses. A batch may have twenty samples of one timestep.
  for (int i = 0; i < 9; ++i) sampler.update(all, loss);
  expect_close(sampler.probabilities(), at::full({kFew}, 1.0 / kFew, at::kDouble), 1e-12, 0);
  sampler.update(all.repeat({2}), loss.repeat({2}));
  const Tensor expected = loss / loss.sum() * 0.999 + 0.001 / kFew;
  expect_close(sampler.probabilities(), expected, 1e-6, 0);

  const TimestepSampler::Draw draw = sampler.sample(200000, make_generator(2));
  expect_close(draw.weights, (1 / (kFew * expected)).index({draw.timesteps}), 1e-5, 0);
  // E[w f(t)] is the mean of f under the uniform distribution for every f.
  const Tensor f = (all.to(at::kDouble) * 0.7).cos() + 2;
  const Tensor estimate = draw.weights.to(at::kDouble) * f.index({draw.timesteps});
  const double error = estimate.std().item<double>() / std::sqrt(200000.0);
  EXPECT_NEAR(estimate.mean().item<double>(), f.mean().item<double>(), 4 * error);
  // Only the newest ten losses count, so ten new losses replace all old ones.
  for (int i = 0; i < 10; ++i) sampler.update(all, at::ones({kFew}));
  expect_close(sampler.probabilities(), at::full({kFew}, 1.0 / kFew, at::kDouble), 1e-9, 0);
}

TEST(TimestepSampler, ContinuesFromItsState) {
  const TimestepSamplingOptions options{.strategy = TimestepSampling::kLossSecondMoment};
  TimestepSampler first(6, options);
  for (int i = 0; i < 13; ++i) first.update(at::arange(6), at::arange(6).to(at::kFloat) + i);
  TimestepSampler second(6, options);
  second.load_state_dict(first.state_dict());
  expect_equal(second.probabilities(), first.probabilities());
  first.update(at::tensor({3, 3}), at::tensor({7.0F, 1.0F}));
  second.update(at::tensor({3, 3}), at::tensor({7.0F, 1.0F}));
  expect_equal(second.probabilities(), first.probabilities());
  expect_throws_with<TensorError>([&] { TimestepSampler(7, options).load_state_dict(first.state_dict()); },
                                  "loss_history");
  expect_throws_with<TensorError>([&] { TimestepSampler(6).load_state_dict(first.state_dict()); }, "uniform");
}

TEST(TimestepSampler, KeepsALossThatIsNotFiniteOutOfItsMemory) {
  TimestepSampler sampler(2, {.strategy = TimestepSampling::kLossSecondMoment});
  for (int i = 0; i < 10; ++i) sampler.update(at::arange(2), at::ones({2}));
  sampler.update(at::arange(2), at::tensor({std::nanf(""), 1.0F}));
  expect_close(sampler.probabilities(), at::full({2}, 0.5, at::kDouble), 1e-9, 0);
}

TEST(TimestepSampler, NamesTheOptionThatCannotWork) {
  const auto sampler = [](TimestepSamplingOptions options) {
    return [=] { TimestepSampler(1000, options); };
  };
  expect_throws_with<ConfigError>(sampler({.logit_std = 0.0}), "logit_std is 0");
  expect_throws_with<ConfigError>(sampler({.mode_scale = 5.0}), "mode_scale is 5");
  expect_throws_with<ConfigError>(sampler({.bias = TimestepBias::kRange, .bias_begin = 10, .bias_end = 1001}),
                                  "timestep_bias_end is 1001");
  expect_throws_with<ConfigError>(sampler({.bias = TimestepBias::kLater, .bias_multiplier = 0.0}),
                                  "timestep_bias_multiplier is 0");
  expect_throws_with<ConfigError>(
      sampler({.strategy = TimestepSampling::kStratified, .bias = TimestepBias::kLater}), "stratified");
  expect_throws_with<ConfigError>(sampler({.strategy = TimestepSampling::kAntithetic, .continuous = true}),
                                  "antithetic");
}

TEST(PyramidNoise, HasUnitVarianceAndMoreOfTheLowFrequencies) {
  const auto noise = [](at::ScalarType dtype) {
    const Generator generator = make_generator(5);
    const Tensor white = at::randn({16, 3, 32, 32}, generator, at::TensorOptions().dtype(dtype));
    return pyramid_noise(white, {.iterations = 6, .discount = 0.8}, generator);
  };
  const Tensor colored = noise(at::kDouble);
  EXPECT_NEAR(colored.std().item<double>(), 1.0, 1e-12);
  expect_equal(noise(at::kDouble), colored);
  EXPECT_EQ(noise(at::kFloat).scalar_type(), at::kFloat);
  // For white noise, means over 8 x 8 pixels have a variance of 1 / 64.
  EXPECT_GT(at::avg_pool2d(colored, {8, 8}).var().item<double>(), 4.0 / 64);
  expect_throws_with<ConfigError>([&] { pyramid_noise(colored, {.iterations = 0}); }, "iterations is 0");
  expect_throws_with<ConfigError>([&] { pyramid_noise(colored, {.discount = 2.0}); }, "discount is 2");
  expect_throws_with<TensorError>([&] { pyramid_noise(at::zeros({3})); }, "[3]");
}

}  // namespace
}  // namespace diffusers
