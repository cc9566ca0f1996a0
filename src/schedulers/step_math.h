#pragma once

// What the steps of all schedulers share: argument checks, per-sample coefficients, thresholding.

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

/// The members of StepOptions that a scheduler knows; every scheduler takes a generator.
struct StepFeatures {
  bool eta = false;
  bool use_clipped_model_output = false;
  bool churn = false;
  bool s_noise = false;
  bool variance_noise = false;
  bool order = false;
};

/// The members of SetTimestepsOptions that a scheduler knows, beyond the device.
struct SetTimestepsFeatures {
  bool original_inference_steps = false;
  bool sigmas = false;
  bool mu = false;
  bool timesteps = false;
  bool strength = false;
  bool num_train_timesteps = false;
};

/// @throws ConfigError naming the option that `who` does not have
void check_step_options(std::string_view who, const StepOptions& options, const StepFeatures& known);
void check_set_timesteps_options(std::string_view who, const SetTimestepsOptions& options,
                                 const SetTimestepsFeatures& known);

/// Both defined, floating, on one device and of one shape; with `wide_output` the model may give twice the
/// channels.
/// @throws TensorError naming both sides
void check_step_tensors(std::string_view who, const Tensor& model_output, const Tensor& sample,
                        bool wide_output = false);

/// @throws ConfigError unless 1 <= n <= limit (limit < 1: no limit)
int64_t checked_num_inference_steps(std::string_view who, std::optional<int64_t> n, int64_t limit = 0);

/// Samples and noise of equal shape, dtype and device.
void require_noisable(const Tensor& original_samples, const Tensor& noise);

/// Integral timesteps as int64 `[B]` or `[1]` on the device of the samples; the range is checked where that
/// costs no read from a device.
Tensor per_sample_timesteps(const Tensor& timesteps, const Tensor& sample, int64_t count);

/// table[indices], with ones behind so that it broadcasts over a sample of `dim` dimensions.
Tensor per_sample(const Tensor& table, const Tensor& indices, int64_t dim);

/// Noise like the model output, or the noise that the caller brought; drawn or cast to `dtype` where that is
/// given.
Tensor step_noise(const StepOptions& options, const Tensor& model_output,
                  std::optional<at::ScalarType> dtype = std::nullopt);

/// The float32 functions of LibTorch, as Python applies them to its 0-dim tensors. Their last bit can differ
/// from that of the C library, even that of the square root.
float torch_sqrt(float x);
float torch_log(float x);
float torch_exp(float x);
float torch_expm1(float x);

/// `step_noise` times `scale`: in its own memory where it was drawn.
Tensor scaled_noise(double scale, const StepOptions& options, const Tensor& model_output,
                    std::optional<at::ScalarType> dtype = std::nullopt);

// Sums are rounded as Python's expressions are: every product and every sum once. Where a difference is
// divided by something small, as x_0 is found from epsilon at a high noise level, its last bit counts.

/// a x + b y in a new tensor; dtypes promote.
Tensor weighted_sum(double a, const Tensor& x, double b, const Tensor& y);
/// x + b y in a new tensor; dtypes promote.
Tensor plus_scaled(const Tensor& x, double b, const Tensor& y);
/// sum + b y, in the memory of `sum`, which nothing else may hold, unless dtypes promote.
Tensor add_scaled(const Tensor& sum, double b, const Tensor& y);
/// The terms a x of a sum in their order, in one new tensor and one for the products; dtypes promote.
struct ScaledTerm {
  double a;
  Tensor x;
};
Tensor scaled_sum(const std::vector<ScaledTerm>& terms);
/// a x in the memory of `x`. `Tensor::mul_` with a number would round the number to the dtype of x first.
Tensor scaled_in_place(const Tensor& x, double a);
/// from + (x - x0) / sigma dt: an Euler step along the slope of the probability flow.
Tensor euler_step(const Tensor& from, const Tensor& x, const Tensor& x0, double sigma, double dt);

/// Dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, section 2.3): each sample is clamped to the
/// quantile `ratio` of its magnitudes, kept within [1, max_value], and divided by it.
Tensor threshold_sample(const Tensor& sample, double ratio, double max_value);

/// @throws ConfigError unless the settings of `threshold_sample` make sense
void check_thresholding(std::string_view who, double ratio, double max_value);

/// T - 1, ..., 0: the timesteps before set_timesteps.
std::vector<double> training_timesteps(int64_t num_train_timesteps);

/// @throws ConfigError unless the timesteps are whole, descending and within [0, num_train_timesteps)
void check_custom_timesteps(std::string_view who, const std::vector<double>& timesteps,
                            int64_t num_train_timesteps);

/// sqrt(1 - abar' - sigma^2), what DDIM multiplies the direction to x_t with (Song et al. 2020, eq. 12):
/// never negative for eta <= 1, but 0 at zero terminal SNR with eta = 1, where rounding can turn it negative.
/// @throws ConfigError if a larger eta asks for more noise than there is at abar'
float ddim_direction(std::string_view who, float alpha_bar_prev, float sigma, double eta);

/// @throws ConfigError naming the prediction types that the scheduler has
void check_prediction_type(std::string_view who, PredictionType type,
                           std::initializer_list<PredictionType> known);

/// An epsilon model says nothing about x_0 where abar_t = 0 (zero terminal SNR): dividing by it gives
/// infinities, which only clipping makes finite again.
/// @throws ConfigError in that case
void require_signal(std::string_view who, float alpha_bar, int64_t t, bool clipped);

/// sqrt(abar), by which x_0 is divided; the smallest number where it is 0, so that a prediction that is the
/// sample itself gives 0 instead of 0 / 0, and any other the end of the clipped range.
float signal_scale(float alpha_bar);

/// The fields of a config that make its betas.
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

/// @throws ConfigError unless the settings for clipping and thresholding that are in use make sense
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

/// x_0 kept in range the way the config says.
/// @param model_output for a new tensor other than this one is clipped in place
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
