// The start and the end of a run: the position of the first timestep, a second run without set_timesteps, and
// levels at which a formula would divide zero by zero.

#include <diffusers/schedulers/ddim_inverse_scheduler.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/ddpm_scheduler.h>
#include <diffusers/schedulers/euler_ancestral_discrete_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/schedulers/heun_discrete_scheduler.h>
#include <diffusers/schedulers/kdpm2_ancestral_discrete_scheduler.h>
#include <diffusers/schedulers/pndm_scheduler.h>
#include <diffusers/schedulers/repaint_scheduler.h>
#include <diffusers/schedulers/sasolver_scheduler.h>
#include <diffusers/schedulers/score_sde_ve_scheduler.h>

#include "support.h"

namespace diffusers::test {
namespace {

std::unique_ptr<Scheduler> made(std::string_view class_name, Json config = Json::object()) {
  config["_class_name"] = class_name;
  return Scheduler::from_config(dump_json(config));
}

bool all_finite(const Tensor& x) { return x.isfinite().all().item<bool>(); }

Tensor run_step(Scheduler& scheduler, const Tensor& t, const Tensor& x, const StepOptions& options) {
  const Tensor output = 0.5 * scheduler.scale_model_input(x, t);
  if (auto* repaint = dynamic_cast<RePaintScheduler*>(&scheduler))
    return repaint->step(output, t, x, x, at::ones_like(x), options).prev_sample;
  if (auto* sde = dynamic_cast<ScoreSdeVeScheduler*>(&scheduler))
    return sde->step_pred(output, t, x, options).prev_sample;
  return scheduler.step(output, t, x, options).prev_sample;
}

/// The type in which a caller passes a timestep.
enum class Passed { kElement, kValue, kCopy };

Tensor whole_run(Scheduler& scheduler, Passed passed, int64_t start = 0) {
  const StepOptions options{.generator = make_generator(7)};
  Tensor x = seeded(0, {1, 2, 2, 2});
  const Timesteps timesteps = scheduler.timesteps();
  for (int64_t i = start; i < timesteps.size(0); ++i) {
    const Tensor element = timesteps[i];
    const Tensor t = passed == Passed::kElement ? element
                     : passed == Passed::kCopy  ? element.clone()
                                                : at::scalar_tensor(element.item(), element.options());
    x = run_step(scheduler, t, x, options);
  }
  return x;
}

struct RepeatedStart {
  std::string class_name;
  Json config;
  int64_t n;
};

std::vector<RepeatedStart> repeated_starts() {
  const Json cosine{{"beta_schedule", "squaredcos_cap_v2"}, {"use_karras_sigmas", true}};
  const Json leading{{"timestep_spacing", "leading"}};
  const Json beta{{"beta_schedule", "scaled_linear"},
                  {"beta_start", 0.00085},
                  {"beta_end", 0.012},
                  {"use_beta_sigmas", true}};
  std::vector<RepeatedStart> starts;
  for (const char* name : {"DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
                           "DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler"}) {
    starts.push_back({name, cosine, 20});
    starts.push_back({name, beta, 50});
    if (std::string_view(name) != "DPMSolverSinglestepScheduler") starts.push_back({name, leading, 1000});
  }
  return starts;
}

TEST(SchedulerRun, StartsAtTheFirstOfTwoEqualTimestepsHoweverItIsPassed) {
  int64_t repeated = 0;
  for (const auto& [class_name, config, n] : repeated_starts()) {
    SCOPED_TRACE(class_name + config.dump());
    const auto scheduler = made(class_name, config);
    scheduler->set_timesteps(n);
    const Timesteps timesteps = scheduler->timesteps();
    ASSERT_EQ(timesteps.size(0), n);
    repeated += timesteps[0].equal(timesteps[1]);
    const auto by_value = scheduler->clone();
    const auto by_copy = scheduler->clone();
    const auto by_index = scheduler->clone();
    by_index->set_begin_index(0);
    const Tensor x = whole_run(*scheduler, Passed::kElement);
    expect_equal(whole_run(*by_value, Passed::kValue), x);
    expect_equal(whole_run(*by_copy, Passed::kCopy), x);
    expect_equal(whole_run(*by_index, Passed::kCopy), x);
  }
  EXPECT_GE(repeated, 10);
}

TEST(SchedulerRun, StartsInTheMiddleWhereTheElementStands) {
  const auto scheduler = made("DPMSolverMultistepScheduler",
                              {{"beta_schedule", "squaredcos_cap_v2"}, {"use_karras_sigmas", true}});
  scheduler->set_timesteps(20);
  const Tensor clean = at::ones({1, 2, 2, 2});
  const Tensor noise = seeded(3, {1, 2, 2, 2});
  for (const int64_t start : {0, 1, 2, 7, 19}) {
    const auto by_element = scheduler->clone();
    const auto by_index = scheduler->clone();
    by_index->set_begin_index(start);
    const Tensor t = by_element->timesteps().slice(0, start, start + 1);
    expect_equal(by_element->add_noise(clean, noise, t), by_index->add_noise(clean, noise, t));
    expect_equal(whole_run(*by_element, Passed::kElement, start),
                 whole_run(*by_index, Passed::kElement, start));
  }
}

TEST(SchedulerRun, StartsPairsOfEvaluationsAtTheFirst) {
  for (const char* name : {"HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"}) {
    SCOPED_TRACE(name);
    const auto scheduler = made(name);
    scheduler->set_timesteps(6);
    const Timesteps timesteps = scheduler->timesteps();
    const auto by_second = scheduler->clone();
    const auto by_first = scheduler->clone();
    const auto by_value = scheduler->clone();
    const Tensor x = seeded(0, {1, 2, 2, 2});
    // timesteps() is t_0, t_1, t_1, t_2, t_2, ..., so both runs start at the fifth element.
    const Tensor expected = run_step(*by_second, timesteps[4], x, {});
    expect_equal(run_step(*by_first, timesteps[3], x, {}), expected);
    expect_equal(run_step(*by_value, timesteps[3].clone(), x, {}), expected);
    EXPECT_GT((expected - x).abs().max().item<double>(), 1e-3);
  }
}

/// These classes keep no state between steps besides `timesteps()`, so a run can be repeated.
bool is_stateless(const std::string& name) {
  return name == "DDPMScheduler" || name == "DDIMScheduler" || name == "DDIMInverseScheduler" ||
         name == "RePaintScheduler" || name == "UnCLIPScheduler" || name == "ScoreSdeVeScheduler";
}

TEST(SchedulerRun, ASecondRunWithoutSetTimestepsIsRightOrRefused) {
  const Json classes = parse_json(load_golden("schedulers.safetensors").metadata.at("classes"), "classes");
  std::vector<std::pair<std::string, Json>> all;
  for (const Json& each : classes) all.emplace_back(each["class"].get<std::string>(), Json::object());
  all.emplace_back("PNDMScheduler", Json{{"skip_prk_steps", true}});
  EXPECT_EQ(all.size(), 29u);
  for (const auto& [name, config] : all) {
    SCOPED_TRACE(name);
    const auto scheduler = made(name, config);
    scheduler->set_timesteps(5);
    const Tensor first = whole_run(*scheduler, Passed::kElement);
    EXPECT_TRUE(all_finite(first));
    if (is_stateless(name)) {
      expect_equal(whole_run(*scheduler, Passed::kElement), first);
      continue;
    }
    const Tensor x = seeded(0, {1, 2, 2, 2});
    expect_throws_with<Error>([&, &each = *scheduler] { each.step(x, each.timesteps()[0], x); },
                              "call set_timesteps to start again");
    scheduler->set_timesteps(5);
    EXPECT_TRUE(all_finite(whole_run(*scheduler, Passed::kElement)));
  }
}

TEST(PNDMScheduler, ARunFromTheMiddleEndsWithItsTimesteps) {
  PNDMScheduler scheduler({.skip_prk_steps = true});
  scheduler.set_timesteps(10);
  whole_run(scheduler, Passed::kElement, 6);
  const Tensor x = seeded(0, {1, 2, 2, 2});
  expect_throws_with<Error>([&] { scheduler.step(x, scheduler.timesteps()[6], x); }, "all 11 steps are done");
  scheduler.set_timesteps(10);
  expect_throws_with<TensorError>([&] { scheduler.step(x, 899, x); }, "timestep 899 is none of timesteps()");
}

// Square roots and quotients.

TEST(EulerAncestralDiscreteScheduler, StepsOverManyNoiseLevelsAreFinite) {
  for (const auto spacing : {TimestepSpacing::kLinspace, TimestepSpacing::kTrailing})
    for (int64_t n = 1; n <= 20; ++n) {
      SCOPED_TRACE(n);
      EulerAncestralDiscreteScheduler euler(
          {.beta_schedule = BetaSchedule::kSquaredcosCapV2, .timestep_spacing = spacing});
      euler.set_timesteps(n);
      EXPECT_TRUE(all_finite(whole_run(euler, Passed::kElement)));
      KDPM2AncestralDiscreteScheduler kdpm2(
          {.beta_schedule = BetaSchedule::kSquaredcosCapV2, .timestep_spacing = spacing});
      kdpm2.set_timesteps(n);
      EXPECT_TRUE(all_finite(kdpm2.timesteps()));
      EXPECT_TRUE(all_finite(whole_run(kdpm2, Passed::kElement)));
    }
}

TEST(SchedulerRun, NoNoiseIsAddedOnTheWayToAHigherLevel) {
  // The last abar of zero terminal SNR is 2^-24, which is more than the one before it.
  for (const char* algorithm : {"", "sde-dpmsolver", "sde-dpmsolver++"}) {
    SCOPED_TRACE(algorithm);
    Json config{{"rescale_betas_zero_snr", true}, {"prediction_type", "v_prediction"}};
    const bool ancestral = std::string_view(algorithm).empty();
    if (!ancestral) config.update({{"algorithm_type", algorithm}, {"final_sigmas_type", "sigma_min"}});
    const auto scheduler =
        made(ancestral ? "EulerAncestralDiscreteScheduler" : "DPMSolverMultistepScheduler", config);
    scheduler->set_timesteps(999);
    const Tensor sigmas = scheduler->sigmas();
    EXPECT_GT(sigmas[2].item<double>(), sigmas[0].item<double>());
    EXPECT_TRUE(all_finite(whole_run(*scheduler, Passed::kElement)));
  }
}

TEST(DDIMScheduler, FullNoiseFromZeroTerminalSnrIsFinite) {
  for (const auto& betas :
       {Json{{"beta_schedule", "linear"}},
        Json{{"beta_schedule", "scaled_linear"}, {"beta_start", 0.00085}, {"beta_end", 0.012}},
        Json{{"beta_schedule", "squaredcos_cap_v2"}}, Json{{"beta_schedule", "laplace"}}})
    for (int64_t n = 1; n <= 50; ++n) {
      SCOPED_TRACE(betas.dump() + " n = " + std::to_string(n));
      Json config{{"clip_sample", false},
                  {"prediction_type", "v_prediction"},
                  {"timestep_spacing", "trailing"},
                  {"rescale_betas_zero_snr", true}};
      config.update(betas);
      const auto scheduler = made("DDIMScheduler", config);
      scheduler->set_timesteps(n);
      Tensor x = seeded(0, {1, 2, 2, 2});
      for (const auto t : scheduler->timesteps())
        x = scheduler->step(0.5 * x, t, x, {.eta = 1.0, .generator = make_generator(1)}).prev_sample;
      EXPECT_TRUE(all_finite(x));
    }
}

TEST(DDIMScheduler, MoreNoiseThanThereIsIsRefused) {
  DDIMScheduler scheduler;
  scheduler.set_timesteps(10);
  const Tensor x = seeded(0, {1, 2, 2, 2});
  const Tensor t = scheduler.timesteps()[5];
  expect_throws_with<ConfigError>([&] { scheduler.step(x, t, x, {.eta = 3.0}); }, "eta is 3, which asks for");
  expect_throws_with<ConfigError>([&] { scheduler.step(x, t, x, {.eta = -0.5}); }, "eta is -0.5");
  EXPECT_TRUE(all_finite(scheduler.step(x, t, x, {.eta = 1.01}).prev_sample));
}

TEST(SchedulerRun, EpsilonThatIsTheSampleIsClippedWhereThereIsNoSignal) {
  for (const char* name : {"DDPMScheduler", "DDIMScheduler", "LCMScheduler"})
    for (const bool threshold : {false, true}) {
      SCOPED_TRACE(name);
      const auto scheduler = made(name, {{"rescale_betas_zero_snr", true},
                                         {"timestep_spacing", "trailing"},
                                         {"clip_sample", !threshold},
                                         {"thresholding", threshold}});
      scheduler->set_timesteps(5);
      const Tensor x = seeded(0, {1, 2, 2, 2});
      const Tensor t = scheduler->timesteps()[0];
      EXPECT_TRUE(
          all_finite(scheduler->clone()->step(x, t, x, {.generator = make_generator(0)}).prev_sample));
      // Otherwise x_0 is at an end of the range, as in Python.
      const Tensor x0 = scheduler->step(0.5 * x, t, x, {.generator = make_generator(0)}).pred_original_sample;
      if (x0.defined()) expect_equal(x0, x.sign());
    }
}

TEST(SchedulerRun, ALevelThatStandsTwiceChangesNothing) {
  // With leading spacing and an offset, the first timestep is greater than the last level, which replaces it.
  for (const char* name :
       {"DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler",
        "SASolverScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler", "DPMSolverSDEScheduler"})
    for (const int64_t order : {1, 2, 3}) {
      SCOPED_TRACE(std::string(name) + " of order " + std::to_string(order));
      const std::string_view kind = name;
      const bool multistep = kind.find("Multistep") != std::string_view::npos;
      const bool sa = kind == "SASolverScheduler";
      Json config{{"num_train_timesteps", 10}, {"timestep_spacing", "leading"}, {"steps_offset", 1}};
      if (multistep) config["solver_order"] = order;
      if (sa) config["predictor_order"] = config["corrector_order"] = order;
      const auto scheduler = made(name, config);
      scheduler->set_timesteps(multistep || sa ? 9 : 10);
      const Tensor sigmas = scheduler->sigmas();
      EXPECT_TRUE(sigmas[0].equal(sigmas[1]));
      EXPECT_TRUE(all_finite(whole_run(*scheduler, Passed::kElement)));
    }
}

/// Runs four fifths of the steps with the ideal epsilon of N(0.7, 0.6^2), for which z, the distance from the
/// mean in standard deviations, is constant.
void expect_to_keep_z(Scheduler& scheduler, int64_t n) {
  SCOPED_TRACE(scheduler.class_name() + " " + std::to_string(n));
  scheduler.set_timesteps(n);
  const Timesteps timesteps = scheduler.timesteps();
  const auto deviation = [](double alpha, double sigma) { return std::hypot(0.6 * alpha, sigma); };
  const auto level = [&](int64_t i) {
    const double abar = scheduler.alphas_cumprod()[timesteps[i].item<int64_t>()].item<double>();
    return std::pair(std::sqrt(abar), std::sqrt(1 - abar));
  };
  const Tensor z = at::linspace(-2, 2, 5, at::kDouble).reshape({1, 1, 1, 5});
  const auto [alpha_0, sigma_0] = level(0);
  Tensor x = 0.7 * alpha_0 + deviation(alpha_0, sigma_0) * z;
  const int64_t last = n * 8 / 10;
  for (int64_t i = 0; i < last; ++i) {
    const auto [alpha, sigma] = level(i);
    const Tensor epsilon = (x - 0.7 * alpha) * (sigma / std::pow(deviation(alpha, sigma), 2));
    x = scheduler.step(epsilon, timesteps[i], x).prev_sample;
  }
  const auto [alpha, sigma] = level(last);
  expect_close((x - 0.7 * alpha) / deviation(alpha, sigma), z, 0, 1e-3);
}

TEST(SchedulerRun, ShortStepsOfHighOrderConverge) {
  for (const int64_t n : {480, 960}) {
    // At order 3, the integrals of DEIS are smaller than the rounding errors of their float32 differences.
    const auto deis = made("DEISMultistepScheduler", {{"num_train_timesteps", 1921}, {"solver_order", 3}});
    expect_to_keep_z(*deis, n);
    for (const char* algorithm : {"data_prediction", "noise_prediction"})
      for (const int64_t order : {3, 4}) {
        const auto config = made("SASolverScheduler", {{"num_train_timesteps", 1921},
                                                       {"predictor_order", order},
                                                       {"corrector_order", order},
                                                       {"algorithm_type", algorithm}});
        auto without_noise = dynamic_cast<const SASolverScheduler&>(*config).config();
        without_noise.tau_func = [](double) { return 0.0; };
        SASolverScheduler scheduler(without_noise);
        expect_to_keep_z(scheduler, n);
      }
  }
}

TEST(FlowMatchEulerDiscreteScheduler, OneStepWithShiftTerminalStartsAtPureNoise) {
  FlowMatchEulerDiscreteScheduler scheduler({.shift = 3.0, .shift_terminal = 0.1});
  scheduler.set_timesteps(1);
  expect_equal(scheduler.timesteps(), at::tensor({1000.0f}));
  expect_equal(scheduler.sigmas(), at::tensor({1.0f, 0.0f}));
  EXPECT_TRUE(all_finite(whole_run(scheduler, Passed::kElement)));
  scheduler.set_timesteps(4);
  EXPECT_NEAR(scheduler.sigmas()[3].item<double>(), 0.1, 1e-6);
  const auto unipc =
      made("UniPCMultistepScheduler",
           {{"use_flow_sigmas", true}, {"prediction_type", "flow_prediction"}, {"shift_terminal", 0.1}});
  unipc->set_timesteps(1);
  EXPECT_NEAR(unipc->sigmas()[0].item<double>(), 1, 2e-6);
  EXPECT_TRUE(all_finite(whole_run(*unipc, Passed::kElement)));
}

TEST(SchedulerRun, FirstTimestepsBeyondTheTrainingTimestepsAreRefused) {
  for (const char* name : {"DDPMScheduler", "DDIMScheduler", "DDIMInverseScheduler", "PNDMScheduler"}) {
    SCOPED_TRACE(name);
    const auto scheduler = made(name, {{"timestep_spacing", "leading"}, {"steps_offset", 1}});
    expect_throws_with<ConfigError>([&, &each = *scheduler] { each.set_timesteps(1000); },
                                    "steps_offset is 1");
    EXPECT_NO_THROW(scheduler->set_timesteps(999));
  }
}

TEST(SchedulerRun, FlowSigmasWithAnotherSpreadAreRefused) {
  for (const char* name :
       {"DPMSolverMultistepScheduler", "DPMSolverMultistepInverseScheduler", "DPMSolverSinglestepScheduler",
        "DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler"}) {
    SCOPED_TRACE(name);
    expect_throws_with<ConfigError>(
        [&] {
          made(name, {{"use_flow_sigmas", true}, {"use_exponential_sigmas", true}});
        },
        "use_flow_sigmas cannot be combined with");
  }
  EXPECT_NO_THROW(made("UniPCMultistepScheduler", {{"use_flow_sigmas", true}, {"use_karras_sigmas", true}}));
}

TEST(SchedulerRun, TheInverseVisitsEqualTimestepsAsOftenAsItsLevels) {
  const auto scheduler = made("DPMSolverMultistepInverseScheduler", {{"use_karras_sigmas", true}});
  scheduler->set_timesteps(50);
  EXPECT_EQ(scheduler->timesteps().size(0), 50);
  EXPECT_EQ(scheduler->sigmas().size(0), 51);
  EXPECT_TRUE(all_finite(whole_run(*scheduler, Passed::kElement)));
}

TEST(EulerDiscreteScheduler, LogLinearLevelsWithContinuousTimestepsKeepTheStepCount) {
  EulerDiscreteScheduler scheduler({.prediction_type = PredictionType::kVPrediction,
                                    .interpolation_type = InterpolationType::kLogLinear,
                                    .timestep_type = TimestepType::kContinuous});
  scheduler.set_timesteps(9);
  EXPECT_EQ(scheduler.timesteps().size(0), 9);
  expect_throws_with<ConfigError>(
      [&] {
        scheduler.set_timesteps(std::nullopt, {.sigmas = {3, 0, 0}});
      },
      "sigmas holds 0");
}

}  // namespace
}  // namespace diffusers::test
