// The schedulers for distilled and special models: loops that tests/reference/schedulers_special.py recorded,
// and the Brownian motion of DPMSolverSDE.

#include <diffusers/schedulers/dpmsolver_sde_scheduler.h>

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
  // The limit is five standard errors. The standard error of a variance of n numbers is sqrt(2 / n) times the
  // variance.
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

}  // namespace
}  // namespace diffusers::test
