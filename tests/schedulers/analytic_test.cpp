// Orders of convergence of the deterministic solvers, measured on the exact solution.
//
// Orders are fitted to the error at a noise level in the middle of the schedule, which the runs of all step
// counts visit. The error at the end of the schedule would not show the order: the last step, from the lowest
// noise level of training to zero, is the same for every step count, and the solvers take it with order 1.

#include <functional>

#include <diffusers/schedulers/ddim_inverse_scheduler.h>
#include <diffusers/schedulers/ddim_scheduler.h>
#include <diffusers/schedulers/deis_multistep_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_inverse_scheduler.h>
#include <diffusers/schedulers/dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/dpmsolver_singlestep_scheduler.h>
#include <diffusers/schedulers/edm_dpmsolver_multistep_scheduler.h>
#include <diffusers/schedulers/edm_euler_scheduler.h>
#include <diffusers/schedulers/euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_euler_discrete_scheduler.h>
#include <diffusers/schedulers/flow_match_heun_discrete_scheduler.h>
#include <diffusers/schedulers/heun_discrete_scheduler.h>
#include <diffusers/schedulers/ipndm_scheduler.h>
#include <diffusers/schedulers/kdpm2_discrete_scheduler.h>
#include <diffusers/schedulers/lms_discrete_scheduler.h>
#include <diffusers/schedulers/pndm_scheduler.h>
#include <diffusers/schedulers/sasolver_scheduler.h>
#include <diffusers/schedulers/unipc_multistep_scheduler.h>

#include "analytic_solution.h"
#include "support.h"

namespace diffusers::test {
namespace {

/// Returns z at the noise level of timesteps()[last], for a run that starts with `z` at timesteps()[first].
Tensor z_after(Scheduler& scheduler, const Gaussian& model, const Tensor& z, int64_t first, int64_t last,
               const StepOptions& options = {}) {
  const Timesteps timesteps = scheduler.timesteps();
  const Level start = model.level(timesteps[first]);
  const Tensor unit =
      model.unscaled(scheduler.scale_model_input(at::ones({1}, z.options()), timesteps[first]), start);
  Tensor x = Gaussian::at_level(z, start) / unit;
  for (int64_t i = first; i < last; ++i) {
    const Tensor input = scheduler.scale_model_input(x, timesteps[i]);
    x = scheduler.step(model(input, timesteps[i]), timesteps[i], x, options).prev_sample;
  }
  const Level end = model.level(timesteps[last]);
  return Gaussian::z_of(model.unscaled(scheduler.scale_model_input(x, timesteps[last]), end).to(at::kDouble),
                        end);
}

/// Returns the negative slope of the regression line through (log n, log error).
double slope_of_errors(const std::vector<int64_t>& n, const std::vector<double>& errors) {
  double x_mean = 0;
  double y_mean = 0;
  const auto count = static_cast<double>(n.size());
  for (std::size_t i = 0; i < n.size(); ++i) {
    x_mean += std::log(static_cast<double>(n[i])) / count;
    y_mean += std::log(errors[i]) / count;
  }
  double covariance = 0;
  double variance = 0;
  for (std::size_t i = 0; i < n.size(); ++i) {
    const double x = std::log(static_cast<double>(n[i])) - x_mean;
    covariance += x * (std::log(errors[i]) - y_mean);
    variance += x * x;
  }
  return -covariance / variance;
}

using Factory = std::function<std::unique_ptr<Scheduler>(int64_t intervals)>;

template <class S>
Factory of(const typename S::Config& config) {
  return [config](int64_t) { return std::make_unique<S>(config); };
}

/// Returns a config with 1920 intervals between training timesteps, which many step counts divide. `linspace`
/// spacing distributes its steps over the intervals, `trailing` spacing over 1920 timesteps.
template <class Config>
Config fine(Config config, int64_t num_train_timesteps = 1921, double beta_end = 0.02) {
  config.num_train_timesteps = num_train_timesteps;
  config.beta_start = 0.0001 * 1000 / 1920;
  config.beta_end = beta_end * 1000 / 1920;
  return config;
}

struct Solver {
  std::string name;
  double order;
  Factory make;
  Family family = Family::kDiscrete;
  std::vector<int64_t> intervals = {20, 40, 80, 160};
  int64_t more_steps = 0;  // steps passed to set_timesteps minus the number of intervals
  double fraction = 0.8;   // fraction of the intervals before the error is measured
  int64_t stages = 1;      // timesteps for each interval
  int64_t warm_up = 0;     // additional timesteps at the start
  double begin = 0;        // fraction of the intervals at which the run starts
};

std::vector<Solver> solvers() {
  using Multistep = DPMSolverMultistepSchedulerConfig;
  using Singlestep = DPMSolverSinglestepSchedulerConfig;
  using Inverse = DPMSolverMultistepInverseSchedulerConfig;
  using UniPC = UniPCMultistepSchedulerConfig;
  using SA = SASolverSchedulerConfig;
  constexpr auto kSigmaMin = FinalSigmasType::kSigmaMin;
  std::vector<Solver> all{
      {.name = "DDIM",
       .order = 1,
       .make = of<DDIMScheduler>(fine(
           DDIMSchedulerConfig{.clip_sample = false, .timestep_spacing = TimestepSpacing::kTrailing}, 1920))},
      // The transfer function uses a mean of epsilon over t in place of a mean over sigma / alpha, so the
      // order is 2 with any of the weights (Liu et al. 2022, theorem 3.2).
      {.name = "PNDM",
       .order = 2,
       .make =
           of<PNDMScheduler>(fine(PNDMSchedulerConfig{.timestep_spacing = TimestepSpacing::kTrailing}, 1920)),
       .intervals = {40, 80, 160},
       .warm_up = 9},
      {.name = "PNDMWithoutRungeKutta",
       .order = 2,
       .make = of<PNDMScheduler>(
           fine(PNDMSchedulerConfig{.skip_prk_steps = true, .timestep_spacing = TimestepSpacing::kTrailing},
                1920)),
       .intervals = {40, 80, 160},
       .warm_up = 1},
      // At pure noise, where alpha = 0, the first step assumes x_0 = 0, which reduces the order by one.
      {.name = "IPNDM",
       .order = 1,
       .make = of<IPNDMScheduler>({}),
       .family = Family::kIpndm,
       .fraction = 0.5},
      {.name = "IPNDMFromASignal",
       .order = 2,
       .make =
           [](int64_t intervals) {
             std::vector<double> betas;
             for (int64_t i = 0; i <= intervals; ++i) {
               const double u = 0.9 * static_cast<double>(intervals - i) / static_cast<double>(intervals);
               betas.push_back(std::pow(std::sin(u * M_PI / 2), 2));
             }
             return std::make_unique<IPNDMScheduler>(IPNDMSchedulerConfig{.trained_betas = betas});
           },
       .family = Family::kIpndm,
       .intervals = {80, 160, 320},
       .fraction = 0.6},
      {.name = "EulerDiscrete",
       .order = 1,
       .make = of<EulerDiscreteScheduler>(fine(EulerDiscreteSchedulerConfig{})),
       .more_steps = 1},
      {.name = "HeunDiscrete",
       .order = 2,
       .make = of<HeunDiscreteScheduler>(fine(HeunDiscreteSchedulerConfig{})),
       .more_steps = 1,
       .stages = 2},
      {.name = "KDPM2Discrete",
       .order = 2,
       .make = of<KDPM2DiscreteScheduler>(fine(KDPM2DiscreteSchedulerConfig{})),
       .more_steps = 1,
       .stages = 2},
      {.name = "LMSDiscrete",
       .order = 4,
       .make = of<LMSDiscreteScheduler>(fine(LMSDiscreteSchedulerConfig{})),
       .intervals = {40, 80, 160},
       .more_steps = 1,
       .fraction = 0.9},
      {.name = "EDMEuler",
       .order = 1,
       .make = of<EDMEulerScheduler>({}),
       .family = Family::kEdm,
       .more_steps = 1,
       .fraction = 0.5},
      {.name = "FlowMatchEuler",
       .order = 1,
       .make = of<FlowMatchEulerDiscreteScheduler>({}),
       .family = Family::kFlow,
       .more_steps = 1,
       .fraction = 0.5},
      {.name = "FlowMatchHeun",
       .order = 2,
       .make = of<FlowMatchHeunDiscreteScheduler>({}),
       .family = Family::kFlow,
       .more_steps = 1,
       .fraction = 0.5,
       .stages = 2},
  };
  for (const auto algorithm : {AlgorithmType::kDpmsolverPlusPlus, AlgorithmType::kDpmsolver}) {
    const std::string suffix = algorithm == AlgorithmType::kDpmsolver ? "" : "PlusPlus";
    for (int64_t order = 1; order <= 3; ++order) {
      // The multistep formula of order 3, as in the authors' code, lacks a factor of two in front of its
      // second difference. Its order is therefore 2, with a smaller constant; with the factor the slope is 3.
      all.push_back(
          {.name = "DPMSolver" + suffix + "Multistep" + std::to_string(order),
           .order = static_cast<double>(std::min<int64_t>(order, 2)),
           .make = of<DPMSolverMultistepScheduler>(fine(Multistep{.solver_order = order,
                                                                  .algorithm_type = algorithm,
                                                                  .lower_order_final = false,
                                                                  .final_sigmas_type = kSigmaMin}))});
      // The inverse run starts at a level with some noise. Below it, a step of any size spans several units
      // of lambda.
      all.push_back({.name = "DPMSolver" + suffix + "MultistepInverse" + std::to_string(order),
                     .order = static_cast<double>(std::min<int64_t>(order, 2)),
                     .make = of<DPMSolverMultistepInverseScheduler>(fine(Inverse{
                         .solver_order = order, .algorithm_type = algorithm, .lower_order_final = false})),
                     .begin = 0.2});
      all.push_back(
          {.name = "DPMSolver" + suffix + "Singlestep" + std::to_string(order),
           .order = static_cast<double>(order),
           .make = of<DPMSolverSinglestepScheduler>(fine(Singlestep{
               .solver_order = order, .algorithm_type = algorithm, .final_sigmas_type = kSigmaMin})),
           .intervals = order == 3 ? std::vector<int64_t>{30, 60, 120} : all[0].intervals});
    }
  }
  for (int64_t order = 1; order <= 3; ++order) {
    const auto expected = static_cast<double>(order);
    all.push_back(
        {.name = "EDMDPMSolverMultistep" + std::to_string(order),
         .order = std::min(expected, 2.0),  // as above
         .make = of<EDMDPMSolverMultistepScheduler>({.solver_order = order, .lower_order_final = false}),
         .family = Family::kEdm,
         .more_steps = 1,
         .fraction = 0.5});
    // The coefficients are differences of float32 numbers, as in Python. For short steps their rounding error
    // dominates.
    all.push_back(
        {.name = "DEIS" + std::to_string(order),
         .order = expected,
         .make = of<DEISMultistepScheduler>(
             fine(DEISMultistepSchedulerConfig{.solver_order = order, .lower_order_final = false})),
         .intervals = order == 3 ? std::vector<int64_t>{10, 15, 20, 30} : std::vector<int64_t>{20, 40, 80}});
    // The corrector adds an order (Zhao et al. 2023, theorem 3.1). From order 3 on, the first step, which has
    // no history, has an error of order 3.
    all.push_back(
        {.name = "UniPC" + std::to_string(order),
         .order = std::min(expected + 1, 3.0),
         .make = of<UniPCMultistepScheduler>(
             fine(UniPC{.solver_order = order, .lower_order_final = false, .final_sigmas_type = kSigmaMin},
                  1921, order == 1 ? 0.02 : 0.036)),
         .intervals = order == 1   ? std::vector<int64_t>{40, 80, 160}
                      : order == 2 ? std::vector<int64_t>{20, 30, 40, 60}
                                   : std::vector<int64_t>{40, 60, 80}});
  }
  for (const auto solver : {SolverType::kBh1, SolverType::kBh2})
    for (const bool predict_x0 : {true, false})
      if (solver == SolverType::kBh1 || !predict_x0)
        all.push_back({.name = std::string("UniPC") + (solver == SolverType::kBh1 ? "Bh1" : "Bh2") +
                               (predict_x0 ? "Data" : "Noise"),
                       .order = 3,
                       .make = of<UniPCMultistepScheduler>(fine(UniPC{.predict_x0 = predict_x0,
                                                                      .solver_type = solver,
                                                                      .lower_order_final = false,
                                                                      .final_sigmas_type = kSigmaMin},
                                                                1921, 0.036)),
                       .intervals = {30, 40, 60, 80},
                       .fraction = 0.6});
  for (const auto algorithm : {AlgorithmType::kDataPrediction, AlgorithmType::kNoisePrediction}) {
    const std::string suffix = algorithm == AlgorithmType::kDataPrediction ? "Data" : "Noise";
    // The corrector's order is the number of predictions that it uses, including the new one. The pair has
    // this order if the predictor's order is at least one less. Python's coefficients are float32, and their
    // rounding error is divided by powers of the step. At order 3 it is visible from 80 intervals on, and for
    // epsilon from 24 intervals on, where errors range from a ninth to twice the regression line. Ten numbers
    // of intervals average this out. Python's SASolverScheduler has the same errors at each number.
    for (int64_t order = 1; order <= 3; ++order)
      all.push_back({.name = "SASolver" + suffix + std::to_string(order),
                     .order = static_cast<double>(order),
                     .make = of<SASolverScheduler>(fine(SA{.predictor_order = std::min<int64_t>(order, 2),
                                                           .corrector_order = order,
                                                           .tau_func = [](double) { return 0.0; },
                                                           .algorithm_type = algorithm,
                                                           .lower_order_final = false})),
                     .intervals = order == 1   ? std::vector<int64_t>{160, 320, 640}
                                  : order == 2 ? std::vector<int64_t>{40, 80, 160}
                                               : std::vector<int64_t>{8, 10, 12, 15, 16, 20, 24, 30, 32, 40},
                     .fraction = order == 3 ? 0.6 : 0.8});
  }
  return all;
}

class DeterministicSolvers : public testing::TestWithParam<Solver> {};

TEST_P(DeterministicSolvers, ConvergeAtTheirOrder) {
  const Solver& solver = GetParam();
  const Tensor z = at::linspace(-2, 2, 5, at::kDouble).reshape({1, 1, 1, 5});
  std::vector<double> errors;
  std::string table;
  for (const int64_t intervals : solver.intervals) {
    const auto scheduler = solver.make(intervals);
    scheduler->set_timesteps(intervals + solver.more_steps);
    const Gaussian model(*scheduler, solver.family);
    const auto done = static_cast<int64_t>(std::llround(static_cast<double>(intervals) * solver.fraction));
    const auto first = static_cast<int64_t>(std::llround(static_cast<double>(intervals) * solver.begin));
    const Tensor end = z_after(*scheduler, model, z, first, solver.stages * done + solver.warm_up);
    errors.push_back((end - z).abs().max().item<double>());
    table += std::to_string(intervals) + " intervals: " + std::to_string(errors.back() * 1e6) + "e-6; ";
  }
  EXPECT_NEAR(slope_of_errors(solver.intervals, errors), solver.order, 0.3) << table;
  EXPECT_LT(errors.back(), 0.02) << table;
}

INSTANTIATE_TEST_SUITE_P(All, DeterministicSolvers, testing::ValuesIn(solvers()),
                         [](const auto& test) { return test.param.name; });

// Inversion finds the noise of a sample, and sampling reconstructs the sample.

TEST(DDIMInverse, FindsTheNoiseOfASampleAndTheWayBack) {
  const Tensor z = at::linspace(-2, 2, 5, at::kDouble).reshape({1, 1, 1, 5});
  const Tensor x0 = kDataMean + kDataDeviation * z;
  const std::vector<int64_t> counts{40, 80, 160, 320};
  std::vector<double> noise_errors;
  std::vector<double> round_trip_errors;
  for (const int64_t n : counts) {
    DDIMInverseScheduler inverse(fine(DDIMInverseSchedulerConfig{.clip_sample = false}, 1920));
    DDIMScheduler forward(fine(DDIMSchedulerConfig{.clip_sample = false}, 1920));
    inverse.set_timesteps(n);
    forward.set_timesteps(n);
    const Gaussian model(forward, Family::kDiscrete);
    Tensor x = x0;
    for (const Tensor& t : inverse.timesteps()) x = inverse.step(model(x, t), t, x).prev_sample;
    const Level top = model.level(forward.timesteps()[0]);
    noise_errors.push_back((Gaussian::z_of(x, top) - z).abs().max().item<double>());
    for (const Tensor& t : forward.timesteps()) x = forward.step(model(x, t), t, x).prev_sample;
    round_trip_errors.push_back((x - x0).abs().max().item<double>());
  }
  EXPECT_NEAR(slope_of_errors(counts, noise_errors), 1, 0.3);
  EXPECT_GT(slope_of_errors(counts, round_trip_errors), 0.7);
  EXPECT_LT(noise_errors.back(), 0.02);
  EXPECT_LT(round_trip_errors.back(), 0.02);
}

}  // namespace
}  // namespace diffusers::test
