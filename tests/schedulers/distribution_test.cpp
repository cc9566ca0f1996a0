// Stochastic samplers and distilled models draw from the distribution of the data, for the ideal model of
// normally distributed data.

#include <diffusers/schedulers/cm_stochastic_iterative_scheduler.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/dpmsolver_sde_scheduler.h>
#include <diffusers/schedulers/dpmsolver_singlestep_scheduler.h>
#include <diffusers/schedulers/edm_dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/schedulers/euler_ancestral_discrete_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/schedulers/kdpm2_ancestral_discrete_scheduler.h>
#include <diffusers/schedulers/lcm_scheduler.h>
#include <diffusers/schedulers/repaint_scheduler.h>
#include <diffusers/schedulers/sasolver_scheduler.h>
#include <diffusers/schedulers/score_sde_ve_scheduler.h>
#include <diffusers/schedulers/tcd_scheduler.h>
#include <diffusers/schedulers/unclip_scheduler.h>

#include "analytic_solution.h"
#include "support.h"

namespace diffusers::test {
namespace {

// Stochastic samplers: mean and variance of many samples, within five standard errors.

constexpr int64_t kCount = 20000;

void expect_data_distribution(const Tensor& samples, double bias = 0.01) {
  const double mean_error = kDataDeviation / std::sqrt(static_cast<double>(kCount));
  const double variance_error =
      kDataDeviation * kDataDeviation * std::sqrt(2.0 / static_cast<double>(kCount));
  EXPECT_NEAR(samples.mean().item<double>(), kDataMean, 5 * mean_error + bias * kDataDeviation);
  EXPECT_NEAR(samples.var().item<double>(), kDataDeviation * kDataDeviation,
              5 * variance_error + bias * kDataDeviation * kDataDeviation);
}

struct Sampler {
  std::string name;
  std::shared_ptr<Scheduler> scheduler;
  int64_t steps = 500;
  double eta = 0;
  double s_churn = 0;
  Family family = Family::kDiscrete;
};

std::vector<Sampler> samplers() {
  using Multistep = DPMSolverMultistepSchedulerConfig;
  return {
      {"DDPM", std::make_shared<DDPMScheduler>(DDPMSchedulerConfig{.clip_sample = false}), 1000},
      {"DDIMWithEta1", std::make_shared<DDIMScheduler>(DDIMSchedulerConfig{.clip_sample = false}), 500, 1.0},
      {"EulerWithChurn", std::make_shared<EulerDiscreteScheduler>(), 500, 0, 40.0},
      {"EulerAncestral", std::make_shared<EulerAncestralDiscreteScheduler>()},
      {"KDPM2Ancestral", std::make_shared<KDPM2AncestralDiscreteScheduler>(), 200},
      {"DPMSolverSDE",
       std::make_shared<DPMSolverSDEScheduler>(DPMSolverSDESchedulerConfig{.noise_sampler_seed = 3}), 80},
      {"SdeDPMSolverPlusPlus", std::make_shared<DPMSolverMultistepScheduler>(
                                   Multistep{.algorithm_type = AlgorithmType::kSdeDpmsolverPlusPlus})},
      {"SdeDPMSolver",
       std::make_shared<DPMSolverMultistepScheduler>(Multistep{
           .algorithm_type = AlgorithmType::kSdeDpmsolver, .final_sigmas_type = FinalSigmasType::kSigmaMin})},
      {"SdeDPMSolverPlusPlusSinglestep",
       std::make_shared<DPMSolverSinglestepScheduler>(
           DPMSolverSinglestepSchedulerConfig{.algorithm_type = AlgorithmType::kSdeDpmsolverPlusPlus})},
      {"SASolver", std::make_shared<SASolverScheduler>(), 200},
      {"SASolverNoise",
       std::make_shared<SASolverScheduler>(
           SASolverSchedulerConfig{.algorithm_type = AlgorithmType::kNoisePrediction}),
       200},
      {"EDMEulerWithChurn", std::make_shared<EDMEulerScheduler>(), 500, 0, 10.0, Family::kEdm},
      {"EDMSdeDPMSolverPlusPlus",
       std::make_shared<EDMDPMSolverMultistepScheduler>(
           EDMDPMSolverMultistepSchedulerConfig{.algorithm_type = AlgorithmType::kSdeDpmsolverPlusPlus}),
       300, 0, 0, Family::kEdm},
  };
}

class StochasticSamplers : public testing::TestWithParam<Sampler> {};

TEST_P(StochasticSamplers, DrawFromTheData) {
  const Sampler& sampler = GetParam();
  Scheduler& scheduler = *sampler.scheduler;
  scheduler.set_timesteps(sampler.steps);
  const Gaussian model(scheduler, sampler.family);
  StepOptions options{.s_churn = sampler.s_churn, .generator = make_generator(1)};
  if (sampler.eta > 0) options.eta = sampler.eta;
  const Timesteps timesteps = scheduler.timesteps();
  const Level start = model.level(timesteps[0]);
  const Tensor unit = model.unscaled(scheduler.scale_model_input(at::ones({1}), timesteps[0]), start);
  Tensor x = Gaussian::at_level(seeded(2, {1, kCount}), start) / unit;
  for (const Tensor& t : timesteps)
    x = scheduler.step(model(scheduler.scale_model_input(x, t), t), t, x, options).prev_sample;
  expect_data_distribution(x);
}

INSTANTIATE_TEST_SUITE_P(All, StochasticSamplers, testing::ValuesIn(samplers()),
                         [](const auto& test) { return test.param.name; });

// Distilled models predict the end of the trajectory, f(x, t) = m + s z. With an exact model a few steps
// sample exactly.

Tensor end_of_trajectory(const Tensor& x, const Level& level) {
  return kDataMean + kDataDeviation * Gaussian::z_of(x, level);
}

TEST(DistilledSamplers, LCMDrawsFromTheDataInFewSteps) {
  LCMScheduler scheduler({.prediction_type = PredictionType::kSample});
  scheduler.set_timesteps(4);
  const Gaussian model(scheduler, Family::kDiscrete);
  const StepOptions options{.generator = make_generator(1)};
  Tensor x = Gaussian::at_level(seeded(2, {1, kCount}), model.level(scheduler.timesteps()[0]));
  for (const Tensor& t : scheduler.timesteps()) {
    const double scaled = 10 * t.item<double>();
    const double c_skip = 0.25 / (scaled * scaled + 0.25);
    const double c_out = scaled / std::hypot(scaled, 0.5);
    x = scheduler.step((end_of_trajectory(x, model.level(t)) - c_skip * x) / c_out, t, x, options)
            .prev_sample;
  }
  expect_data_distribution(x, 0.001);
}

TEST(DistilledSamplers, FlowMatchEulerWithStochasticSamplingDrawsFromTheDataInFewSteps) {
  FlowMatchEulerDiscreteScheduler scheduler({.stochastic_sampling = true});
  scheduler.set_timesteps(4);
  const Gaussian model(scheduler, Family::kFlow);
  const StepOptions options{.generator = make_generator(1)};
  Tensor x = Gaussian::at_level(seeded(2, {1, kCount}), model.level(scheduler.timesteps()[0]));
  for (const Tensor& t : scheduler.timesteps()) {
    const Level level = model.level(t);
    x = scheduler.step((x - end_of_trajectory(x, level)) / level.sigma, t, x, options).prev_sample;
  }
  expect_data_distribution(x, 0.001);
}

TEST(DistilledSamplers, TCDDrawsFromTheDataInFewSteps) {
  for (const double eta : {0.0, 0.3, 1.0}) {
    SCOPED_TRACE(eta);
    TCDScheduler scheduler;
    scheduler.set_timesteps(5);
    const Gaussian model(scheduler, Family::kDiscrete);
    const StepOptions options{.eta = eta, .generator = make_generator(1)};
    const Timesteps timesteps = scheduler.timesteps();
    Tensor x = Gaussian::at_level(seeded(2, {1, kCount}), model.level(timesteps[0]));
    for (int64_t i = 0; i < 5; ++i) {
      const double next = i < 4 ? timesteps[i + 1].item<double>() : 0.0;
      const Level t = model.level(timesteps[i]);
      const Level s = model.level(at::scalar_tensor(std::floor((1 - eta) * next), at::kDouble));
      // With this epsilon, a DDIM step leads from t to s.
      const Tensor goal = Gaussian::at_level(Gaussian::z_of(x, t), s);
      const Tensor epsilon = (goal - s.alpha / t.alpha * x) / (s.sigma - s.alpha * t.sigma / t.alpha);
      x = scheduler.step(epsilon, timesteps[i], x, options).prev_sample;
    }
    expect_data_distribution(x, 0.005);  // the run ends at timestep 0, where some noise remains
  }
}

TEST(DistilledSamplers, ConsistencyModelDrawsFromTheDataInFewSteps) {
  CMStochasticIterativeScheduler scheduler({.clip_denoised = false});
  scheduler.set_timesteps(std::nullopt, {.timesteps = {30, 17, 5, 0}});
  const Gaussian model(scheduler, Family::kConsistency);
  const StepOptions options{.generator = make_generator(1)};
  Tensor x = Gaussian::at_level(seeded(2, {1, kCount}), model.level(scheduler.timesteps()[0]));
  for (const Tensor& t : scheduler.timesteps()) {
    const Level level = model.level(t);
    expect_close(model.unscaled(scheduler.scale_model_input(x, t), level), x, 1e-5, 1e-5);
    const double above = level.sigma - 0.002;
    const double c_skip = 0.25 / (above * above + 0.25);
    const double c_out = above * 0.5 / std::hypot(level.sigma, 0.5);
    x = scheduler.step((end_of_trajectory(x, level) - c_skip * x) / c_out, t, x, options).prev_sample;
  }
  expect_data_distribution(x, 0.001);
}

TEST(StochasticSteps, UnCLIPDrawsFromTheData) {
  UnCLIPScheduler scheduler({.clip_sample = false});
  scheduler.set_timesteps(500);
  const Gaussian model(scheduler, Family::kDiscrete);
  const StepOptions options{.generator = make_generator(1)};
  const Timesteps timesteps = scheduler.timesteps();
  Tensor x = seeded(2, {1, kCount});
  for (int64_t i = 0; i < 500; ++i) {
    const Tensor t = timesteps[i];
    const int64_t next = i + 1 < 500 ? timesteps[i + 1].item<int64_t>() : -1;
    x = scheduler.step(model(x, t), t, x, next, options).prev_sample;
  }
  expect_data_distribution(x);
}

TEST(StochasticSteps, RePaintKeepsWhatIsKnownAndDrawsTheRest) {
  RePaintScheduler scheduler({.eta = 1.0, .clip_sample = false});
  scheduler.set_timesteps(250, 10, 1);
  const Gaussian model(scheduler, Family::kDiscrete);
  const StepOptions options{.generator = make_generator(1)};
  const Tensor known = seeded(3, {2, kCount});
  const Tensor mask = at::tensor({1, 0}, at::kFloat).reshape({2, 1});
  Tensor x = seeded(2, {2, kCount});
  for (const Tensor& t : scheduler.timesteps())
    x = scheduler.step(model(x, t), t, x, known, mask, options).prev_sample;
  expect_equal(x[0], known[0]);
  expect_data_distribution(x[1], 0.02);
}

TEST(StochasticSteps, ScoreSdeVeDrawsFromTheData) {
  // The corrector's steps are finite, which increases the variance by a factor of about 1 + snr^2.
  ScoreSdeVeScheduler scheduler({.num_train_timesteps = 500, .snr = 0.05, .sigma_max = 20});
  const StepOptions options{.generator = make_generator(1)};
  const auto score = [](const Tensor& x, double sigma) {
    return (kDataMean - x) / (kDataDeviation * kDataDeviation + sigma * sigma);
  };
  const Tensor sigmas = scheduler.discrete_sigmas();
  Tensor x = kDataMean + std::hypot(20, kDataDeviation) * seeded(2, {1, kCount});
  for (const Tensor& t : scheduler.timesteps()) {
    const auto i = static_cast<int64_t>(t.item<float>() * 499.0f);
    const double sigma = sigmas[i].item<double>();
    x = scheduler.step_correct(score(x, sigma), x, options).prev_sample;
    x = scheduler.step_pred(score(x, sigma), t, x, options).prev_sample;
  }
  expect_data_distribution(x, 0.02);
}

// Forward noising keeps the distribution.

TEST(ForwardNoising, HasTheDistributionThatTheSamplersStartFrom) {
  const Tensor x0 = kDataMean + kDataDeviation * seeded(5, {1, kCount});
  const Tensor noise = seeded(6, {1, kCount});
  const DDPMScheduler scheduler;
  const Gaussian model(scheduler, Family::kDiscrete);
  for (const int64_t t : {0, 100, 400, 999}) {
    const Tensor timestep = at::tensor({t}, at::kLong);
    const Tensor z = Gaussian::z_of(scheduler.add_noise(x0, noise, timestep), model.level(timestep));
    EXPECT_NEAR(z.mean().item<double>(), 0, 5 / std::sqrt(static_cast<double>(kCount)));
    EXPECT_NEAR(z.var().item<double>(), 1, 5 * std::sqrt(2.0 / static_cast<double>(kCount)));
  }
}

}  // namespace
}  // namespace diffusers::test
