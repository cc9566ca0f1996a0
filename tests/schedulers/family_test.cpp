// Tests beyond the recorded loops: steps with special arguments, noising, and convergence to a known
// solution.

#include <algorithm>
#include <cmath>

#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/dpmsolver_singlestep_scheduler.h>
#include <diffusers/schedulers/edm_dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/schedulers/heun_discrete_scheduler.h>
#include <diffusers/schedulers/lms_discrete_scheduler.h>
#include <diffusers/schedulers/pndm_scheduler.h>
#include <diffusers/schedulers/repaint_scheduler.h>
#include <diffusers/schedulers/sasolver_scheduler.h>
#include <diffusers/schedulers/score_sde_ve_scheduler.h>
#include <diffusers/schedulers/unclip_scheduler.h>
#include <diffusers/schedulers/unipc_multistep_scheduler.h>

#include "schedulers/step_math.h"
#include "support.h"

namespace diffusers::test {
namespace {

const std::vector<int64_t> kShape{2, 3, 2, 2};

const Golden& family_golden() {
  static const Golden golden = load_golden("schedulers.safetensors");
  return golden;
}

Tensor model(int64_t i, const Tensor& x, double slope = 0.3) {
  return 0.6 * seeded(static_cast<uint64_t>(100 + i), kShape) + slope * x;
}

TEST(UnCLIPScheduler, StepsThatSkipTimestepsMatchDiffusers) {
  UnCLIPScheduler scheduler;
  scheduler.set_timesteps(10);
  const Timesteps timesteps = scheduler.timesteps();
  Tensor x = seeded(0, kShape);
  const StepOptions options{.generator = make_generator(7)};
  for (int64_t i = 0; i < 10; ++i) {
    const Tensor output = model(i, x);
    x = i + 1 < 10
            ? scheduler.step(output, timesteps[i], x, timesteps[i + 1].item<int64_t>(), options).prev_sample
            : scheduler.step(output, timesteps[i], x, options).prev_sample;
    ASSERT_TRUE(expect_close(x, family_golden()["unclip/" + std::to_string(i)]));
  }
}

TEST(RePaintScheduler, StepsAndJumpsMatchDiffusers) {
  struct Case {
    double eta;
    bool clip_sample;
    int64_t n;
    int64_t jump_length;
  };
  const std::vector<Case> cases{{0.0, true, 25, 5}, {0.7, false, 10, 3}, {1.0, true, 50, 10}};
  for (std::size_t k = 0; k < cases.size(); ++k) {
    SCOPED_TRACE(k);
    const std::string key = "repaint/" + std::to_string(k);
    RePaintScheduler scheduler({.eta = cases[k].eta, .clip_sample = cases[k].clip_sample});
    scheduler.set_timesteps(cases[k].n, cases[k].jump_length, 2);
    const Timesteps timesteps = scheduler.timesteps();
    ASSERT_TRUE(expect_equal(timesteps, family_golden()[key + "/timesteps"]));
    const Tensor image = seeded(1, kShape);
    const Tensor mask = (seeded(2, kShape) > 0).to(at::kFloat);
    const StepOptions options{.generator = make_generator(7)};
    Tensor x = seeded(0, kShape);
    int64_t last = timesteps[0].item<int64_t>() + 1;
    for (int64_t i = 0; i < timesteps.numel(); ++i) {
      const int64_t t = timesteps[i].item<int64_t>();
      x = t < last ? scheduler.step(model(i, x), timesteps[i], x, image, mask, options).prev_sample
                   : scheduler.undo_step(x, at::scalar_tensor(last, at::kLong), options.generator);
      last = t;
      // Without clipping x grows, and an element near zero is a difference of larger numbers.
      const Tensor& expected = family_golden()[key + "/prev"][i];
      const double scale = cases[k].clip_sample ? 1.0 : std::max(1.0, expected.abs().max().item<double>());
      ASSERT_TRUE(expect_close(x, expected, 1e-5, 1e-5 * scale, "step " + std::to_string(i)));
    }
  }
  RePaintScheduler scheduler;
  scheduler.set_timesteps(50);
  expect_equal(scheduler.timesteps(), family_golden()["repaint/default_timesteps"]);
  expect_throws_with<Error>([&] { scheduler.step(seeded(0, kShape), 0, seeded(0, kShape)); }, "mask");
}

TEST(ScoreSdeVeScheduler, PredictorAndCorrectorMatchDiffusers) {
  for (int k = 0; k < 3; ++k) {
    SCOPED_TRACE(k);
    const std::string key = "sde/" + std::to_string(k);
    const int64_t n = std::vector<int64_t>{10, 25, 50}[static_cast<std::size_t>(k)];
    ScoreSdeVeScheduler scheduler({.snr = 0.1 + 0.05 * k, .sigma_max = 50.0 + k});
    scheduler.set_timesteps(n);
    scheduler.set_sigmas(n);
    expect_close(scheduler.sigmas(), family_golden()[key + "/sigmas"], 2e-6, 1e-7);
    expect_close(scheduler.discrete_sigmas(), family_golden()[key + "/discrete_sigmas"], 1e-6, 1e-7);
    const StepOptions options{.generator = make_generator(7)};
    Tensor x = seeded(0, kShape) * scheduler.init_noise_sigma();
    int64_t i = 0;
    for (const auto t : scheduler.timesteps()) {
      const Tensor output = model(i, x, -0.3);
      x = scheduler.step_correct(output, x, options).prev_sample;
      const auto result = scheduler.step_pred(output, t, x, options);
      x = result.prev_sample;
      const Tensor& expected = family_golden()[key][i++];
      // Langevin steps are long at high noise levels, so tolerances are relative to the largest element.
      const double scale = expected.abs().max().item<double>();
      ASSERT_TRUE(expect_close(x, expected[0], 1e-5, 1e-5 * std::max(scale, 1.0)));
      ASSERT_TRUE(expect_close(result.prev_sample_mean, expected[1], 1e-5, 1e-5 * std::max(scale, 1.0)));
    }
  }
  ScoreSdeVeScheduler scheduler;
  expect_throws_with<Error>([&] { scheduler.step({}, 0, {}); }, "step_pred");
  scheduler.set_timesteps(7, 0.02);
  expect_close(scheduler.timesteps(), family_golden()["sde/timesteps"], 1e-6, 0);
}

TEST(FlowMatchEulerDiscreteScheduler, StepWithATimestepForEachTokenMatchesDiffusers) {
  const Tensor per_token = at::tensor({1000.0f, 600.0f, 250.0f, 900.0f, 10.0f, 0.0f}).view({2, 3});
  for (int k = 0; k < 2; ++k) {
    FlowMatchEulerDiscreteScheduler scheduler({.stochastic_sampling = k == 1});
    scheduler.set_timesteps(4);
    expect_close(scheduler
                     .step(seeded(1, {2, 3, 5}), scheduler.timesteps()[0], seeded(0, {2, 3, 5}), per_token,
                           {.generator = make_generator(7)})
                     .prev_sample,
                 family_golden()["per_token/" + std::to_string(k)]);
  }
}

TEST(EDMEulerScheduler, StepTowardsAGivenX0MatchesDiffusers) {
  EDMEulerScheduler scheduler;
  scheduler.set_timesteps(4);
  Tensor x = seeded(0, kShape) * 80;
  uint64_t seed = 2;
  for (const Tensor& t : scheduler.timesteps())
    x = scheduler.step(seeded(1, kShape), t, x, 0.5 * seeded(seed++, kShape)).prev_sample;
  expect_close(x, family_golden()["edm/with_x0"]);
  expect_throws_with<TensorError>(
      [&] {
        scheduler.step(x, scheduler.timesteps()[0], x, seeded(1, {2, 3}));
      },
      "pred_original_sample");
}

template <class S>
void expect_noising(const std::string& name) {
  SCOPED_TRACE(name);
  S scheduler;
  scheduler.set_timesteps(10);
  const Tensor two = scheduler.timesteps().index_select(0, at::tensor({2, 7}, at::kLong));
  expect_close(scheduler.add_noise(seeded(1, kShape), seeded(2, kShape), two),
               family_golden()["noised/" + name]);
}

TEST(SigmaSchedulers, NoisingTheTimestepsOfARunMatchesDiffusers) {
  expect_noising<EulerDiscreteScheduler>("EulerDiscreteScheduler");
  expect_noising<DPMSolverMultistepScheduler>("DPMSolverMultistepScheduler");
  expect_noising<UniPCMultistepScheduler>("UniPCMultistepScheduler");
  FlowMatchEulerDiscreteScheduler flow({.shift = 3.0});
  const Tensor two = flow.timesteps().index_select(0, at::tensor({200, 700}, at::kLong));
  expect_close(flow.scale_noise(seeded(1, kShape), two, seeded(2, kShape)),
               family_golden()["noised/FlowMatchEulerDiscreteScheduler"]);
}

/// 1.0009 is not representable in half precision. A step must not round it before the multiplication.
TEST(StepMath, ScalesHalfPrecisionByTheNumberThatIsGiven) {
  for (const auto dtype : {at::kHalf, at::kBFloat16, at::kFloat, at::kDouble}) {
    const Tensor x = seeded(0, {64}, dtype);
    expect_equal(scaled_in_place(x.clone(), 1.0009), x * 1.0009);
    expect_equal(scaled_in_place(at::full({4}, 1e-3, dtype), 1e6), at::full({4}, 1e-3, dtype) * 1e6);
  }
}

TEST(SigmaSchedulers, NoisingInTheMiddleOfARunGoesByTimestepUnlessABeginIndexWasSet) {
  EulerDiscreteScheduler scheduler;
  scheduler.set_timesteps(10);
  const Tensor x = seeded(1, kShape);
  const Tensor e = seeded(2, kShape);
  const Timesteps timesteps = scheduler.timesteps();
  const Tensor two = timesteps.index_select(0, at::tensor({2, 7}, at::kLong));
  scheduler.step(x, timesteps[0], x);
  expect_close(scheduler.add_noise(x, e, two), family_golden()["noised/EulerDiscreteScheduler"]);

  EulerDiscreteScheduler late;
  late.set_timesteps(10);
  late.set_begin_index(2);
  const auto with_sigma = [&](int64_t i) { return x + late.sigmas()[i].item<double>() * e; };
  expect_close(late.add_noise(x, e, two), with_sigma(2));
  late.step(x, timesteps[2], x);
  expect_close(late.add_noise(x, e, two), with_sigma(3));
}

TEST(SigmaSchedulers, TrainingTimestepsHaveTheirOwnNoiseLevelBeforeSetTimesteps) {
  const Tensor t = at::tensor({3, 900}, at::kLong);
  const Tensor x = seeded(1, kShape);
  const Tensor e = seeded(2, kShape);
  const DDPMScheduler ddpm;
  const Tensor expected = ddpm.add_noise(x, e, t);
  expect_close(DPMSolverMultistepScheduler().add_noise(x, e, t), expected, 1e-4, 1e-5);
  expect_close(DPMSolverSinglestepScheduler().add_noise(x, e, t), expected, 1e-4, 1e-5);
  expect_close(UniPCMultistepScheduler().add_noise(x, e, t), expected, 1e-4, 1e-5);
  // In Karras coordinates the sample is divided by sqrt(abar).
  const Tensor scale = ddpm.alphas_cumprod().index_select(0, t).sqrt().view({2, 1, 1, 1});
  for (const char* name : {"EulerDiscreteScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler"}) {
    SCOPED_TRACE(name);
    const auto scheduler = Scheduler::from_config(std::string(R"({"_class_name": ")") + name +
                                                  R"(", "beta_start": 0.0001, "beta_end": 0.02})");
    expect_close(scheduler->add_noise(x, e, t) * scale, expected, 1e-4, 1e-5);
    scheduler->set_timesteps(10);
    expect_close(scheduler->add_noise(x, e, t) * scale, expected, 1e-4, 1e-5);
  }
  expect_close(EulerDiscreteScheduler().get_velocity(x, e, t), ddpm.get_velocity(x, e, t));
}

TEST(SchedulerFamily, EveryClassIsMadeFromTheConfigOfAnother) {
  const std::string config = DDPMScheduler({.beta_start = 0.00085,
                                            .beta_end = 0.012,
                                            .beta_schedule = BetaSchedule::kScaledLinear,
                                            .prediction_type = PredictionType::kVPrediction,
                                            .steps_offset = 1})
                                 .config_json();
  for (const char* name :
       {"PNDMScheduler", "EulerDiscreteScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler",
        "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler",
        "DEISMultistepScheduler", "KDPM2DiscreteScheduler", "LCMScheduler", "TCDScheduler",
        "SASolverScheduler", "DDIMInverseScheduler"}) {
    SCOPED_TRACE(name);
    Json json = parse_json(config, "config");
    json["_class_name"] = name;
    const auto scheduler = Scheduler::from_config(dump_json(json));
    EXPECT_EQ(scheduler->class_name(), name);
    EXPECT_EQ(scheduler->prediction_type_name(), "v_prediction");
    EXPECT_NEAR(scheduler->betas()[0].item<double>(), 0.00085, 1e-7);
  }
}

TEST(SchedulerFamily, CombinationsThatCannotWorkAreNamed) {
  expect_throws_with<ConfigError>(
      [] { EulerDiscreteScheduler({.use_karras_sigmas = true, .use_beta_sigmas = true}); },
      "only one of use_karras_sigmas");
  expect_throws_with<ConfigError>(
      [] { DPMSolverMultistepScheduler({.algorithm_type = AlgorithmType::kDpmsolver}); },
      "final_sigmas_type \"zero\"");
  expect_throws_with<ConfigError>([] { DPMSolverMultistepScheduler({.solver_order = 4}); },
                                  "solver_order is 4");
  expect_throws_with<ConfigError>([] { DPMSolverMultistepScheduler({.solver_order = 0}); },
                                  "solver_order is 0");
  expect_throws_with<ConfigError>([] { PNDMScheduler({.prediction_type = PredictionType::kSample}); },
                                  "prediction_type is \"sample\"");
  expect_throws_with<ConfigError>([] { UniPCMultistepScheduler({.lower_order_final = false}); }, "sigma_min");
  expect_throws_with<ConfigError>(
      [] { HeunDiscreteScheduler({.trained_betas = std::vector<double>(1000, 1.0)}); }, "sigma");
  expect_throws_with<ConfigError>([] { PNDMScheduler().set_timesteps(3); }, "at least 4");
  expect_throws_with<ConfigError>([] { EulerDiscreteScheduler().set_timesteps(std::nullopt); },
                                  "exactly one of");
  expect_throws_with<ConfigError>(
      [] {
        EulerDiscreteScheduler({.use_karras_sigmas = true})
            .set_timesteps(std::nullopt, {.timesteps = {900, 10}});
      },
      "timesteps cannot be given");
  expect_throws_with<ConfigError>(
      [] { SASolverScheduler({.tau_func = [](double) { return 1.0; }}).config_json(); }, "tau_func");
  expect_throws_with<ConfigError>([] { EulerDiscreteScheduler().set_begin_index(-1); }, "begin_index is -1");
  expect_throws_with<ConfigError>(
      [] { FlowMatchEulerDiscreteScheduler({.use_dynamic_shifting = true}).set_timesteps(5); }, "mu");
}

TEST(SchedulerFamily, StepsOutOfPlaceAreNamed) {
  const Tensor x = seeded(0, kShape);
  expect_throws_with<Error>([&] { DPMSolverMultistepScheduler().step(x, 999, x); }, "set_timesteps");
  expect_throws_with<Error>([&] { UniPCMultistepScheduler().step(x, 999, x); }, "set_timesteps");
  EulerDiscreteScheduler euler;
  euler.set_timesteps(2);
  expect_throws_with<TensorError>([&] { euler.step(x, 3, x); }, "timestep 3");
  const Timesteps timesteps = euler.timesteps();
  for (const auto t : timesteps) euler.step(x, t, x);
  expect_throws_with<Error>([&] { euler.step(x, timesteps[1], x); }, "all 2 steps are done");
}

TEST(UniPCMultistepScheduler, EveryFormEndsAtTheCleanSampleWhereTheLastSigmaIsZero) {
  for (const auto solver : {SolverType::kBh1, SolverType::kBh2}) {
    for (const bool predict_x0 : {true, false}) {
      UniPCMultistepScheduler scheduler({.predict_x0 = predict_x0, .solver_type = solver});
      scheduler.set_timesteps(10);
      Tensor x = seeded(0, kShape);
      for (const auto t : scheduler.timesteps()) x = scheduler.step(0.5 * x, t, x).prev_sample;
      EXPECT_TRUE(x.isfinite().all().item<bool>());
    }
  }
}

TEST(UniPCMultistepScheduler, AnotherPredictorIsCopiedWithItsOwner) {
  UniPCMultistepScheduler scheduler({.solver_p = std::make_shared<DDIMScheduler>()});
  scheduler.set_timesteps(10);
  const Tensor x = seeded(0, kShape);
  UniPCMultistepScheduler copy = scheduler;
  const Tensor t = scheduler.timesteps()[0];
  DDIMScheduler ddim;
  ddim.set_timesteps(10);
  expect_equal(scheduler.step(x, t, x).prev_sample, ddim.step(x, t, x).prev_sample);
  expect_equal(copy.step(x, t, x).prev_sample, ddim.step(x, t, x).prev_sample);
  expect_throws_with<ConfigError>([&] { scheduler.config_json(); }, "scheduler");
}

TEST(EDMDPMSolverMultistepScheduler, AScheduleThatEndsOnTheSameLevelTwiceStaysFinite) {
  EDMDPMSolverMultistepScheduler scheduler(
      {.solver_type = SolverType::kHeun, .final_sigmas_type = FinalSigmasType::kSigmaMin});
  scheduler.set_timesteps(20);
  Tensor x = seeded(0, kShape) * 80;
  for (const auto t : scheduler.timesteps())
    x = scheduler.step(0.5 * scheduler.scale_model_input(x, t), t, x).prev_sample;
  EXPECT_TRUE(x.isfinite().all().item<bool>());
}

}  // namespace
}  // namespace diffusers::test
