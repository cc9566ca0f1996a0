// The schedulers for distilled and unusual models: loops that tests/reference/schedulers_special.py recorded,
// the Brownian motion behind DPMSolverSDE, and the numbers that diffusers' own tests expect.

#include <diffusers/schedulers/cm_stochastic_iterative_scheduler.h>
#include <diffusers/schedulers/dpmsolver_sde_scheduler.h>
#include <diffusers/schedulers/score_sde_ve_scheduler.h>
#include <diffusers/schedulers/unclip_scheduler.h>

#include "schedulers/brownian_interval.h"
#include "support.h"

namespace diffusers::test {
namespace {

const Golden& special() {
  static const Golden golden = load_golden("schedulers_special.safetensors");
  return golden;
}

Json special_metadata(const std::string& key) { return parse_json(special().metadata.at(key), key); }

class SpecialSchedulers : public testing::TestWithParam<std::string> {};

TEST_P(SpecialSchedulers, MatchDiffusersAtEveryStep) {
  for (const auto& loop : special_metadata("cases"))
    if (loop["class"] == GetParam()) replay_loop(loop, special());
}

INSTANTIATE_TEST_SUITE_P(All, SpecialSchedulers,
                         testing::Values("LCMScheduler", "TCDScheduler", "SASolverScheduler",
                                         "CMStochasticIterativeScheduler", "UnCLIPScheduler",
                                         "DPMSolverSDEScheduler"),
                         [](const auto& test) { return test.param; });

TEST(BrownianInterval, HashesSeedsAsNumpyDoes) {
  for (const auto& each : special_metadata("seed_sequences"))
    EXPECT_EQ(seed_sequence_state(each["entropy"], each["spawn_key"], each["pool_size"], 6),
              each["state"].get<std::vector<uint32_t>>())
        << each.dump();
}

TEST(BrownianInterval, DrawsWhatTorchsdeDraws) {
  const Json cases = special_metadata("brownian");
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const Json& each = cases[i];
    const auto dtype = dtype_from_name(each["dtype"]);
    const BrownianInterval motion(each["t0"], each["t1"],
                                  at::empty(each["shape"].get<std::vector<int64_t>>(), dtype), each["seed"]);
    const Tensor& expected = special()["brownian/" + std::to_string(i)];
    for (std::size_t k = 0; k < each["queries"].size(); ++k)
      expect_equal(motion.increment(each["queries"][k][0], each["queries"][k][1]),
                   expected[static_cast<int64_t>(k)],
                   "motion " + std::to_string(i) + ", query " + std::to_string(k));
  }
}

TEST(BrownianInterval, IncrementsAddUpAndVaryAsTheirLength) {
  const BrownianInterval motion(0, 2, at::empty({40000}, at::kDouble), 11);
  const Tensor left = motion.increment(0.3, 0.8);
  const Tensor right = motion.increment(0.8, 1.7);
  expect_close(left + right, motion.increment(0.3, 1.7), 0, 1e-12);
  // The standard error of a variance over n numbers is sqrt(2 / n) of it; five of those.
  const double tolerance = 5 * std::sqrt(2.0 / 40000);
  EXPECT_NEAR(left.pow(2).mean().item<double>(), 0.5, 0.5 * tolerance);
  EXPECT_NEAR(right.pow(2).mean().item<double>(), 0.9, 0.9 * tolerance);
  EXPECT_NEAR((left * right).mean().item<double>(), 0, 5 * std::sqrt(0.45 / 40000));
  EXPECT_EQ(motion.increment(1.0, 1.0).abs().max().item<double>(), 0);
}

TEST(DPMSolverSDEScheduler, NamesWhatCannotWork) {
  const auto make = [](const DPMSolverSDESchedulerConfig& config) { return DPMSolverSDEScheduler(config); };
  expect_throws_with<ConfigError>([&] { make({.noise_sampler_seed = -3}); }, "noise_sampler_seed is -3");
  expect_throws_with<ConfigError>([&] { make({.prediction_type = PredictionType::kSample}); },
                                  "prediction_type is \"sample\"");
  expect_throws_with<ConfigError>([&] { make({.use_karras_sigmas = true, .use_beta_sigmas = true}); },
                                  "use_karras_sigmas");
  DPMSolverSDEScheduler scheduler({.noise_sampler_seed = {1, 2, 3}});
  scheduler.set_timesteps(5);
  const Tensor x = seeded(0, {2, 3, 2, 2});
  const auto step = [&](const StepOptions& options) {
    scheduler.step(x, scheduler.timesteps()[0], x, options);
  };
  expect_throws_with<TensorError>([&] { step({}); }, "3 seeds, expected one for each of the 2 samples");
  expect_throws_with<ConfigError>([&] { step({.s_churn = 1.0}); }, "s_churn");
  expect_throws_with<TensorError>([&] { scheduler.step(x, 1.25, x); }, "none of timesteps()");
}

TEST(DPMSolverSDEScheduler, SeedsWithoutOneFromTheGenerator) {
  const Tensor x = seeded(0, {2, 3, 2, 2});
  const auto first_step = [&](uint64_t seed) {
    DPMSolverSDEScheduler scheduler;
    scheduler.set_timesteps(5);
    return scheduler.step(x, scheduler.timesteps()[0], x, {.generator = make_generator(seed)}).prev_sample;
  };
  expect_equal(first_step(1), first_step(1));
  EXPECT_FALSE(first_step(1).equal(first_step(2)));
}

// The numbers below are those of diffusers' tests/schedulers for the CPU, with their tolerances: sum and mean
// of the magnitudes after a loop over a toy model. (IPNDM's loop goes round twice without set_timesteps and
// SASolver's without a generator; neither is a run that this library has.)

Tensor toy_sample() {
  return (at::arange(768, at::kFloat).reshape({3, 8, 8, 4}) / 768).permute({3, 0, 1, 2}).contiguous();
}

Tensor toy_model(const Tensor& sample, const Tensor& t) {
  const Tensor time = t.to(sample.scalar_type());
  return sample * time / (time + 1);
}

void expect_sum_and_mean(const Tensor& sample, double sum, double mean, double sum_tolerance = 1e-2) {
  EXPECT_NEAR(sample.abs().sum().item<double>(), sum, sum_tolerance);
  EXPECT_NEAR(sample.abs().mean().item<double>(), mean, 1e-3);
}

struct PublishedLoop {
  std::string json;
  std::optional<int64_t> n;
  SetTimestepsOptions set_timesteps;
  std::optional<double> eta;
  bool keep_scaled;  // whether the loop goes on with the scaled sample
  double sum;
  double mean;
};

TEST(PublishedNumbers, FullLoops) {
  const std::string distilled =
      R"("num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"})";
  const std::string linear =
      R"("num_train_timesteps": 1100, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear")";
  const std::string lcm = R"({"_class_name": "LCMScheduler", )" + distilled;
  const std::string tcd = R"({"_class_name": "TCDScheduler", )" + distilled;
  const std::string sa = R"({"_class_name": "SASolverScheduler", )" + linear;
  const std::string sde = R"({"_class_name": "DPMSolverSDEScheduler", "noise_sampler_seed": 0, )" + linear;
  const std::string cm =
      R"({"_class_name": "CMStochasticIterativeScheduler", "num_train_timesteps": 201, "sigma_min": 0.002, "sigma_max": 80.0})";
  const std::vector<PublishedLoop> loops{
      {lcm, 1, {}, {}, false, 18.7097, 0.0244},
      {lcm, 10, {}, {}, false, 197.7616, 0.2575},
      {tcd, 1, {}, 0.0, false, 29.8715, 0.0389},
      {tcd, 10, {}, 0.0, false, 181.2040, 0.2359},
      {sa + "}", 10, {}, {}, true, 337.394287109375, 0.43931546807289124},
      {sa + R"(, "use_karras_sigmas": true})", 10, {}, {}, true, 837.2554931640625, 1.0901764631271362},
      {sde + "}", 10, {}, {}, true, 162.52383422851562, 0.211619570851326},
      {sde + R"(, "prediction_type": "v_prediction"})",
       10,
       {},
       {},
       true,
       119.8487548828125,
       0.1560530662536621},
      {sde + R"(, "use_karras_sigmas": true})", 10, {}, {}, true, 170.3135223388672, 170.3135223388672 / 768},
      {cm, 1, {}, {}, false, 192.7614, 0.2510},
      {cm, {}, {.timesteps = {106, 0}}, {}, false, 347.6357, 0.4527},
  };
  for (const auto& loop : loops) {
    SCOPED_TRACE(loop.json);
    const auto scheduler = Scheduler::from_config(loop.json);
    scheduler->set_timesteps(loop.n, loop.set_timesteps);
    const StepOptions options{.eta = loop.eta, .generator = make_generator(0)};
    Tensor x = toy_sample() * scheduler->init_noise_sigma();
    for (const Tensor& t : scheduler->timesteps()) {
      const Tensor scaled = scheduler->scale_model_input(x, t);
      if (loop.keep_scaled) x = scaled;
      x = scheduler->step(toy_model(scaled, t), t, x, options).prev_sample;
    }
    expect_sum_and_mean(x, loop.sum, loop.mean);
  }
}

TEST(PublishedNumbers, UnCLIP) {
  UnCLIPScheduler scheduler;
  StepOptions options{.generator = make_generator(0)};
  Tensor x = toy_sample();
  for (const Tensor& t : scheduler.timesteps())
    x = scheduler.step(toy_model(x, t), t, x, options).prev_sample;
  expect_sum_and_mean(x, 252.2682495, 0.3284743);

  scheduler.set_timesteps(25);
  options.generator = make_generator(0);
  x = toy_sample();
  const Timesteps timesteps = scheduler.timesteps();
  for (int64_t i = 0; i < 25; ++i) {
    const Tensor t = timesteps[i];
    const Tensor output = toy_model(x, t);
    x = (i + 1 < 25 ? scheduler.step(output, t, x, timesteps[i + 1].item<int64_t>(), options)
                    : scheduler.step(output, t, x, options))
            .prev_sample;
  }
  expect_sum_and_mean(x, 258.2044983, 0.3362038);
}

TEST(PublishedNumbers, ScoreSdeVe) {
  ScoreSdeVeScheduler scheduler({.sigma_max = 1348});
  scheduler.set_sigmas(3);
  scheduler.set_timesteps(3);
  const StepOptions options{.generator = make_generator(0)};
  Tensor x = toy_sample();
  const Timesteps timesteps = scheduler.timesteps();
  for (int64_t i = 0; i < 3; ++i) {
    const Tensor sigma = scheduler.sigmas()[i];
    x = scheduler.step_correct(toy_model(x, sigma), x, options).prev_sample;
    x = scheduler.step_pred(toy_model(x, sigma), timesteps[i], x, options).prev_sample;
  }
  EXPECT_NEAR(x.abs().sum().item<double>(), 14372758528.0, 1e-5 * 14372758528.0);
  EXPECT_NEAR(x.abs().mean().item<double>(), 18714530.0, 1e-5 * 18714530.0);
}

}  // namespace
}  // namespace diffusers::test
