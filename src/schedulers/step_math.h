#pragma once

// Common parts of the steps of all schedulers: argument checks, per-sample coefficients, thresholding.

#include <initializer_list>
#include <optional>
#include <string_view>
#include <vector>

#include <diffusers/schedulers/beta_schedule.h>
#include <diffusers/schedulers/scheduler.h>

#include <ATen/ops/clamp.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {

/// The members of StepOptions that a scheduler supports. Every scheduler supports `generator`.
struct StepFeatures {
  bool eta = false;
  bool use_clipped_model_output = false;
  bool churn = false;
  bool s_noise = false;
  bool variance_noise = false;
  bool order = false;
};

/// The members of SetTimestepsOptions that a scheduler supports. Every scheduler supports `device`.
struct SetTimestepsFeatures {
  bool original_inference_steps = false;
  bool sigmas = false;
  bool mu = false;
  bool timesteps = false;
  bool strength = false;
  bool num_train_timesteps = false;
};

/// Checks that only supported options are set.
/// @throws ConfigError naming the option that `who` does not support
void check_step_options(std::string_view who, const StepOptions& options, const StepFeatures& known);
void check_set_timesteps_options(std::string_view who, const SetTimestepsOptions& options,
                                 const SetTimestepsFeatures& known);

/// Checks that both tensors are defined, floating, on one device and of one shape.
/// @param wide_output allows the model output twice the channels
/// @throws TensorError naming both tensors
void check_step_tensors(std::string_view who, const Tensor& model_output, const Tensor& sample,
                        bool wide_output = false);

/// Returns the number of steps.
/// @throws ConfigError unless 1 <= n <= limit (limit < 1: no limit)
int64_t checked_num_inference_steps(std::string_view who, std::optional<int64_t> n, int64_t limit = 0);

/// Checks that samples and noise have equal shape, dtype and device.
void require_noisable(const Tensor& original_samples, const Tensor& noise);

/// Returns integral timesteps as int64 `[B]` or `[1]` on the device of the samples. The range is checked if
/// that needs no read from a device.
Tensor per_sample_timesteps(const Tensor& timesteps, const Tensor& sample, int64_t count);

/// Returns table[indices] with trailing dimensions of 1, so that it broadcasts over a sample of `dim`
/// dimensions.
Tensor per_sample(const Tensor& table, const Tensor& indices, int64_t dim);

/// Draws noise like the model output, or returns the noise of the options. If `dtype` is given, the noise has
/// that dtype.
Tensor step_noise(const StepOptions& options, const Tensor& model_output,
                  std::optional<at::ScalarType> dtype = std::nullopt);

/// The float32 functions of LibTorch, which Python applies to its 0-dim tensors. Their last bit can differ
/// from that of the C library, even for the square root.
float torch_sqrt(float x);
float torch_log(float x);
float torch_exp(float x);
float torch_expm1(float x);

/// Returns `step_noise` times `scale`. Drawn noise is scaled in place.
Tensor scaled_noise(double scale, const StepOptions& options, const Tensor& model_output,
                    std::optional<at::ScalarType> dtype = std::nullopt);

// Sums are rounded as Python's expressions are: every product and every sum once. The last bit matters if a
// difference is divided by a small number, such as for x_0 from epsilon at a high noise level.

/// Returns a x + b y in a new tensor. Dtypes promote.
Tensor weighted_sum(double a, const Tensor& x, double b, const Tensor& y);
/// Returns x + b y in a new tensor. Dtypes promote.
Tensor plus_scaled(const Tensor& x, double b, const Tensor& y);
/// Returns sum + b y. It is computed in place in `sum`, which must not be shared, unless dtypes promote.
Tensor add_scaled(const Tensor& sum, double b, const Tensor& y);
/// A term a x of a sum. The terms are added in order, in one new tensor and one for the products. Dtypes
/// promote.
struct ScaledTerm {
  double a;
  Tensor x;
};
Tensor scaled_sum(const std::vector<ScaledTerm>& terms);
/// Computes a x in place. `Tensor::mul_` with a number would round the number to the dtype of x first.
Tensor scaled_in_place(const Tensor& x, double a);
/// Returns from + (x - x0) / sigma dt, an Euler step along the slope of the probability flow.
Tensor euler_step(const Tensor& from, const Tensor& x, const Tensor& x0, double sigma, double dt);

/// Applies dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, section 2.3). The threshold of a
/// sample is the quantile `ratio` of its magnitudes, clamped to [1, max_value]. The sample is clamped to the
/// threshold and divided by it.
Tensor threshold_sample(const Tensor& sample, double ratio, double max_value);

/// Checks the settings of `threshold_sample`.
/// @throws ConfigError if a setting is out of range
void check_thresholding(std::string_view who, double ratio, double max_value);

/// Returns T - 1, ..., 0, the timesteps before set_timesteps.
std::vector<double> training_timesteps(int64_t num_train_timesteps);

/// Checks custom timesteps.
/// @throws ConfigError unless the timesteps are whole, descending and within [0, num_train_timesteps)
void check_custom_timesteps(std::string_view who, const std::vector<double>& timesteps,
                            int64_t num_train_timesteps);

/// Returns sqrt(1 - abar' - sigma^2), DDIM's factor of the direction to x_t (Song et al. 2020, eq. 12). The
/// radicand is not negative for eta <= 1. At zero terminal SNR with eta = 1 it is 0, which rounding can make
/// negative.
/// @throws ConfigError if a larger eta requires more noise than there is at abar'
float ddim_direction(std::string_view who, float alpha_bar_prev, float sigma, double eta);

/// Checks a prediction type.
/// @throws ConfigError naming the prediction types that the scheduler supports
void check_prediction_type(std::string_view who, PredictionType type,
                           std::initializer_list<PredictionType> known);

/// Checks that x_0 is defined. An epsilon model does not determine x_0 at abar_t = 0 (zero terminal SNR): the
/// division gives infinities, which only clipping makes finite.
/// @throws ConfigError if abar_t is 0 and x_0 is not clipped
void require_signal(std::string_view who, float alpha_bar, int64_t t, bool clipped);

/// Returns sqrt(abar), the divisor of x_0. For abar = 0 it returns the smallest positive number: a prediction
/// equal to the sample then gives 0 instead of 0 / 0, and any other prediction the end of the clipped range.
float signal_scale(float alpha_bar);

/// Returns the fields of a config that define its betas.
template <class Config>
BetaOptions beta_options(const Config& config) {
  BetaOptions options{.num_train_timesteps = config.num_train_timesteps,
                      .beta_start = config.beta_start,
                      .beta_end = config.beta_end,
                      .beta_schedule = config.beta_schedule,
                      .trained_betas = config.trained_betas};
  if constexpr (requires { config.rescale_betas_zero_snr; })
    options.rescale_betas_zero_snr = config.rescale_betas_zero_snr;
  return options;
}

/// Checks the settings of clipping and thresholding.
/// @throws ConfigError if a setting in use is out of range
template <class Config>
void check_clipping(std::string_view who, const Config& config) {
  if constexpr (requires { config.thresholding; })
    if (config.thresholding)
      check_thresholding(who, config.dynamic_thresholding_ratio, config.sample_max_value);
  if constexpr (requires { config.clip_sample_range; })
    require<ConfigError>(!config.clip_sample || config.clip_sample_range >= 0,
                         "{}: clip_sample_range is {}, expected a number that is not negative", who,
                         config.clip_sample_range);
}

/// Clips or thresholds x_0 as configured.
/// @param model_output the model output; x_0 is clipped in place if it is another tensor
template <class Config>
Tensor clip_or_threshold(Tensor sample, const Config& config, const Tensor& model_output) {
  if constexpr (requires { config.thresholding; })
    if (config.thresholding)
      return threshold_sample(sample, config.dynamic_thresholding_ratio, config.sample_max_value);
  if constexpr (requires { config.clip_sample_range; })
    if (config.clip_sample)
      return sample.is_same(model_output)
                 ? at::clamp(sample, -config.clip_sample_range, config.clip_sample_range)
                 : at::clamp_(sample, -config.clip_sample_range, config.clip_sample_range);
  return sample;
}

}  // namespace internal
}  // namespace diffusers
