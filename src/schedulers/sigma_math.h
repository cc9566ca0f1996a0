#pragma once

// Noise levels: their spacing and their relation to timesteps.

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

/// Returns sigma_t = sqrt((1 - abar_t) / abar_t) of every training timestep, float32 `[T]`.
Tensor training_sigma_tensor(const Tensor& alphas_cumprod);
std::vector<double> training_sigmas(const Tensor& alphas_cumprod);

/// Makes the forward process of a sigma-based scheduler. With zero terminal SNR the last abar is 2^-24
/// instead of 0, so that its sigma (4096) is finite.
/// @throws ConfigError if a sigma is infinite nevertheless
NoiseSchedule finite_noise_schedule(const BetaOptions& options);

/// Returns numpy.linspace(start, stop, count).
std::vector<double> linspace(double start, double stop, int64_t count);
/// Interpolates the sigmas at fractional training timesteps (numpy.interp over 0, 1, ...).
std::vector<double> interpolate(const std::vector<double>& positions, const std::vector<double>& values);

/// Computes numpy.log of a positive float32, whose last bit often differs from that of the C library. It is a
/// rational function of the mantissa, evaluated with fused multiply-adds.
float numpy_log(float x);

/// Returns the fractional training timestep of each sigma, by interpolation in log(sigma).
std::vector<double> sigmas_to_timesteps(const std::vector<double>& sigmas,
                                        const std::vector<double>& training);
/// The same in float32, as Python computes it for float32 sigmas. NumPy computes the final weighted mean in
/// float64, tensors in float32.
std::vector<double> sigmas_to_timesteps(const std::vector<float>& sigmas, const std::vector<double>& training,
                                        bool as_tensors);

/// Computes the sigmas of Karras et al. 2022, arXiv 2206.00364, eq. 5.
std::vector<double> karras_sigmas(double sigma_min, double sigma_max, int64_t count, double rho = 7.0);
std::vector<double> exponential_sigmas(double sigma_min, double sigma_max, int64_t count);
/// Computes sigmas at quantiles of Beta(0.6, 0.6) (Lee et al. 2024, arXiv 2407.12173).
std::vector<double> beta_sigmas(double sigma_min, double sigma_max, int64_t count);
/// Returns s sigma / (1 + (s - 1) sigma), which shifts a flow-matching schedule towards noise (Esser et al.
/// 2024, eq. 23).
double shifted_sigma(double sigma, double shift);
/// Inverts the regularized incomplete beta function: returns the x with I_x(a, b) = p.
double beta_quantile(double p, double a, double b);

/// Spacing of the sigmas that a config selects.
enum class SigmaSpread { kPlain, kKarras, kExponential, kBeta };

/// Returns the spacing that a config selects.
/// @param karras_flow true if the class supports Karras sigmas with flow sigmas
/// @throws ConfigError if the config selects more than one spacing, or a spacing that flow sigmas, which end
///   at 1, do not support
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

/// Computes `count` sigmas of a spacing from the first to the last of `range`. Given bounds replace those of
/// `range`.
std::vector<double> spread_sigmas(SigmaSpread spread, const std::vector<double>& range, int64_t count,
                                  std::optional<double> sigma_min = std::nullopt,
                                  std::optional<double> sigma_max = std::nullopt);

/// Computes the timesteps of the solvers that end at sigma_0 of the schedule (DPM-Solver, UniPC, DEIS): n + 1
/// spaced timesteps without the last one.
std::vector<double> solver_timesteps(TimestepSpacing spacing, int64_t num_train_timesteps,
                                     int64_t last_timestep, int64_t num_inference_steps,
                                     int64_t steps_offset);

/// Warns if the timesteps of a run with leading spacing, multiples of `stride`, are all the same.
void warn_where_leading_stands_still(int64_t stride, int64_t num_inference_steps, int64_t steps_offset);

/// Returns x / sqrt(sigma^2 + 1), the model's input for a sample x = x_0 + sigma eps.
Tensor karras_model_input(const Tensor& sample, float sigma);

/// Returns the initial noise level of a Karras-type scheduler.
template <class Config>
double karras_init_noise_sigma(const SigmaRun& run, const Config& config) {
  const float sigma = run.max_sigma();
  return config.timestep_spacing == TimestepSpacing::kLeading ? torch_sqrt(sigma * sigma + 1) : sigma;
}

/// Timesteps of a Karras-type scheduler (unrounded linspace) and their sigmas, with the spacing of the
/// config.
struct KarrasSchedule {
  std::vector<double> timesteps;
  std::vector<double> sigmas;
};
KarrasSchedule karras_schedule(TimestepSpacing spacing, int64_t num_train_timesteps,
                               int64_t num_inference_steps, int64_t steps_offset, SigmaSpread spread,
                               const std::vector<double>& training, std::optional<double> sigma_min,
                               std::optional<double> sigma_max,
                               const std::vector<double>& custom_timesteps = {});

/// Repeats every value except the first: the timesteps or sigmas of a solver that evaluates the model twice
/// per step.
std::vector<double> doubled(const std::vector<double>& values, bool last_too);
/// Repeats values as `doubled` does, and appends the last value once more.
std::vector<double> doubled_and_closed(const std::vector<double>& values);

/// Makes the run over all training timesteps, which a scheduler has before set_timesteps. `continuous`
/// timesteps are log(sigma) / 4.
SigmaRun training_run(const NoiseSchedule& schedule, at::ScalarType timestep_dtype, bool continuous = false);

/// Returns x_0 + sigma eps. Before set_timesteps every training timestep has its own sigma; see
/// SigmaRun::per_sample_sigmas.
Tensor karras_add_noise(const SigmaRun& run, const NoiseSchedule& schedule, const Tensor& original_samples,
                        const Tensor& noise, const Tensor& timesteps, std::string_view who);
/// Returns alpha_t x_0 + sigma_t eps in the coordinates of `noise_level`.
Tensor solver_add_noise(const SigmaRun& run, const NoiseSchedule& schedule, bool flow,
                        const Tensor& original_samples, const Tensor& noise, const Tensor& timesteps,
                        std::string_view who);

/// Returns sigma (1 + gamma) with gamma = min(s_churn / N, sqrt(2) - 1) within [s_tmin, s_tmax] (Karras et
/// al. 2022, algorithm 2).
float churned_sigma(const StepOptions& options, float sigma, int64_t num_steps);
/// Returns the sample in float32 with added noise, which raises it from level `sigma` to `sigma_hat`.
Tensor churned_sample(const Tensor& sample, const StepOptions& options, const Tensor& model_output,
                      float sigma, float sigma_hat);

/// An ancestral step from a noise level to the next: a step to `down`, then noise of `up`, where down^2 +
/// up^2 = next^2. A step to a higher level adds no noise.
struct AncestralLevels {
  float up;
  float down;
};
AncestralLevels ancestral_levels(float sigma, float sigma_next);

/// Returns the midpoint of two levels in log(sigma); 0 if one of them is 0.
float log_midpoint(double a, double b);

/// Returns the dtype of KDPM2's timesteps, which is float32 unless they are computed from sigmas.
at::ScalarType kdpm2_timestep_dtype(SigmaSpread spread);

/// Returns e^mu / (e^mu + 1 / sigma - 1), or the same with mu instead of e^mu for the linear type (Esser et
/// al. 2024, section 5.3.2).
double dynamically_shifted_sigma(double sigma, double mu, TimeShiftType type);
/// Stretches the schedule so that it ends at `terminal` and keeps its start (Lin et al. 2023 for flows). A
/// schedule with a single level, which ends at 1, is not changed.
void stretch_to_terminal(std::vector<double>& sigmas, double terminal);
/// Makes the run over all training timesteps of a flow, t = T sigma, with the shifted sigmas T / T, ..., 1 /
/// T.
SigmaRun flow_training_run(int64_t num_train_timesteps, double shift);
/// Checks the config of a flow.
/// @throws ConfigError if the number of timesteps or the shift is not positive
void check_flow_config(std::string_view who, int64_t num_train_timesteps, double shift);

}  // namespace internal
}  // namespace diffusers
