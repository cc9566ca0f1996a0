#pragma once

// Noise levels: how they are spread and how they relate to timesteps.

#include <cmath>
#include <optional>
#include <string_view>
#include <vector>

#include <diffusers/schedulers/enums.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/sigma_run.h>

#include "core/require.h"
#include "schedulers/prediction.h"
#include "schedulers/step_math.h"

namespace diffusers {
inline namespace internal {

/// sigma_t = sqrt((1 - abar_t) / abar_t) of every training timestep, float32 `[T]`.
Tensor training_sigma_tensor(const Tensor& alphas_cumprod);
std::vector<double> training_sigmas(const Tensor& alphas_cumprod);

/// The forward process of a sigma-based scheduler. With zero terminal SNR the last abar is 2^-24 instead of
/// 0, so that its sigma (4096) is finite.
/// @throws ConfigError if a sigma is infinite all the same
NoiseSchedule finite_noise_schedule(const BetaOptions& options);

/// numpy.linspace(start, stop, count)
std::vector<double> linspace(double start, double stop, int64_t count);
/// The sigmas at fractional training timesteps (numpy.interp over 0, 1, ...).
std::vector<double> interpolate(const std::vector<double>& positions, const std::vector<double>& values);

/// numpy.log of a positive float32, whose last bit often differs from that of the C library: a rational
/// function of the mantissa, evaluated with fused multiply-adds.
float numpy_log(float x);

/// The fractional training timestep of each sigma, by interpolation in log sigma.
std::vector<double> sigmas_to_timesteps(const std::vector<double>& sigmas,
                                        const std::vector<double>& training);
/// The same in float32, as Python computes it for float32 sigmas; NumPy takes the weighted mean at the end in
/// float64, tensors in float32.
std::vector<double> sigmas_to_timesteps(const std::vector<float>& sigmas, const std::vector<double>& training,
                                        bool as_tensors);

/// Karras et al. 2022, arXiv 2206.00364, eq. 5
std::vector<double> karras_sigmas(double sigma_min, double sigma_max, int64_t count, double rho = 7.0);
std::vector<double> exponential_sigmas(double sigma_min, double sigma_max, int64_t count);
/// Quantiles of Beta(0.6, 0.6) (Lee et al. 2024, arXiv 2407.12173).
std::vector<double> beta_sigmas(double sigma_min, double sigma_max, int64_t count);
/// s sigma / (1 + (s - 1) sigma), which moves a flow-matching schedule towards noise (Esser et al. 2024, eq.
/// 23).
double shifted_sigma(double sigma, double shift);
/// Regularized incomplete beta function inverted: the x with I_x(a, b) = p.
double beta_quantile(double p, double a, double b);

/// Which of the alternative sigma schedules a config asks for.
enum class SigmaSpread { kPlain, kKarras, kExponential, kBeta };

/// @param karras_flow whether the class turns the Karras sigmas of a flow into its own
/// @throws ConfigError if it asks for more than one, or for one of them along a flow, whose levels end at 1
template <class Config>
SigmaSpread sigma_spread(std::string_view who, const Config& config, bool karras_flow = false) {
  if constexpr (requires { config.use_flow_sigmas; }) {
    bool spread =
        (config.use_karras_sigmas && !karras_flow) || config.use_exponential_sigmas || config.use_beta_sigmas;
    if constexpr (requires { config.use_lu_lambdas; }) spread = spread || config.use_lu_lambdas;
    require<ConfigError>(
        !config.use_flow_sigmas || !spread,
        "{}: use_flow_sigmas cannot be combined with karras, exponential, beta or lu sigmas, "
        "which spread the levels of the betas: they exceed 1, the last level of a flow",
        who);
  }
  require<ConfigError>(
      config.use_karras_sigmas + config.use_exponential_sigmas + config.use_beta_sigmas <= 1,
      "{}: only one of use_karras_sigmas, use_exponential_sigmas and use_beta_sigmas can be true", who);
  return config.use_karras_sigmas        ? SigmaSpread::kKarras
         : config.use_exponential_sigmas ? SigmaSpread::kExponential
         : config.use_beta_sigmas        ? SigmaSpread::kBeta
                                         : SigmaSpread::kPlain;
}

/// `count` sigmas of that spread from the first of `range` to its last; bounds that are given win.
std::vector<double> spread_sigmas(SigmaSpread spread, const std::vector<double>& range, int64_t count,
                                  std::optional<double> sigma_min = std::nullopt,
                                  std::optional<double> sigma_max = std::nullopt);

/// The timesteps of the solvers that go down to sigma_0 of the schedule (DPM-Solver, UniPC, DEIS): n of n + 1
/// spaced ones, without the last.
std::vector<double> solver_timesteps(TimestepSpacing spacing, int64_t num_train_timesteps,
                                     int64_t last_timestep, int64_t num_inference_steps,
                                     int64_t steps_offset);

/// Warns if the timesteps of a run with leading spacing, multiples of `stride`, are all the same.
void warn_where_leading_stands_still(int64_t stride, int64_t num_inference_steps, int64_t steps_offset);

/// x / sqrt(sigma^2 + 1): a sample x = x_0 + sigma eps as the model was trained to see it.
Tensor karras_model_input(const Tensor& sample, float sigma);

/// The initial noise level of a Karras-type scheduler.
template <class Config>
double karras_init_noise_sigma(const SigmaRun& run, const Config& config) {
  const float sigma = run.max_sigma();
  return config.timestep_spacing == TimestepSpacing::kLeading ? torch_sqrt(sigma * sigma + 1) : sigma;
}

/// Timesteps of a Karras-type scheduler (unrounded linspace) and the training sigmas there, spread as the
/// config asks.
struct KarrasSchedule {
  std::vector<double> timesteps;
  std::vector<double> sigmas;
};
KarrasSchedule karras_schedule(TimestepSpacing spacing, int64_t num_train_timesteps,
                               int64_t num_inference_steps, int64_t steps_offset, SigmaSpread spread,
                               const std::vector<double>& training, std::optional<double> sigma_min,
                               std::optional<double> sigma_max,
                               const std::vector<double>& custom_timesteps = {});

/// First, then the rest twice: the timesteps or sigmas of a solver that evaluates the model twice a step.
std::vector<double> doubled(const std::vector<double>& values, bool last_too);
/// All of that, and the last once more.
std::vector<double> doubled_and_closed(const std::vector<double>& values);

/// The run over all training timesteps that a scheduler starts with, before set_timesteps; `continuous`
/// timesteps are log(sigma) / 4.
SigmaRun training_run(const NoiseSchedule& schedule, at::ScalarType timestep_dtype, bool continuous = false);

/// x_0 + sigma eps. Before set_timesteps every training timestep has its own sigma; see
/// SigmaRun::per_sample_sigmas.
Tensor karras_add_noise(const SigmaRun& run, const NoiseSchedule& schedule, const Tensor& original_samples,
                        const Tensor& noise, const Tensor& timesteps, std::string_view who);
/// alpha_t x_0 + sigma_t eps in the coordinates of `noise_level`.
Tensor solver_add_noise(const SigmaRun& run, const NoiseSchedule& schedule, bool flow,
                        const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps,
                        std::string_view who);

/// sigma (1 + gamma), gamma = min(s_churn / N, sqrt(2) - 1) within [s_tmin, s_tmax] (Karras et al., algorithm
/// 2).
float churned_sigma(const StepOptions& options, float sigma, int64_t num_steps);
/// The sample in float32, with noise that lifts it from level `sigma` to `sigma_hat`.
Tensor churned_sample(const Tensor& sample, const StepOptions& options, const Tensor& model_output,
                      float sigma, float sigma_hat);

/// An ancestral step from a noise level to the next: first `down`, then noise of `up`, where down^2 + up^2 =
/// next^2. No noise is added on the way to a higher level.
struct AncestralLevels {
  float up;
  float down;
};
AncestralLevels ancestral_levels(float sigma, float sigma_next);

/// Halfway between two levels in log sigma; 0 if one of them is 0.
float log_midpoint(double a, double b);

/// KDPM2 keeps float32 timesteps unless they were found from sigmas.
at::ScalarType kdpm2_timestep_dtype(SigmaSpread spread);

/// e^mu / (e^mu + 1 / sigma - 1), or mu in place of e^mu for the linear type (Esser et al. 2024,
/// section 5.3.2).
double dynamically_shifted_sigma(double sigma, double mu, TimeShiftType type);
/// Stretches the schedule so that it ends at `terminal`, its start kept (Lin et al. 2023 for flows). One that
/// ends at 1, since it has a single level, stays as it is.
void stretch_to_terminal(std::vector<double>& sigmas, double terminal);
/// T / T, ..., 1 / T, shifted: the run over all training timesteps of a flow, t = T sigma.
SigmaRun flow_training_run(int64_t num_train_timesteps, double shift);
/// @throws ConfigError unless there are timesteps and the shift is positive
void check_flow_config(std::string_view who, int64_t num_train_timesteps, double shift);

}  // namespace internal
}  // namespace diffusers
