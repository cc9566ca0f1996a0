#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/device_table.h>
#include <diffusers/schedulers/enums.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/training/loss_options.h>
#include <diffusers/training/variational_bound.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

inline namespace internal {
class ForwardProcess;
}  // namespace internal

/// Computes the training loss of a denoiser: the target of the scheduler's `prediction_type`, the loss of an
/// element, and the weight of a timestep. The tables are computed once, in float64.
///
/// If the scheduler's `variance_type` is "learned" or "learned_range", the model outputs twice the channels
/// of x_0. The loss is then the hybrid loss of Nichol and Dhariwal 2021 (arXiv 2102.09672): it adds the
/// variational bound, whose gradient only reaches the second half of the channels.
class DiffusionObjective {
 public:
  /// Creates the objective of a scheduler.
  /// @param scheduler noise schedule and prediction type
  /// @param options loss and weights
  /// @throws ConfigError naming an option that is out of range or has no effect
  /// @throws ConfigError for a weighting other than `none` with epsilon prediction and a schedule that ends
  /// at an
  ///         SNR of zero (`rescale_betas_zero_snr`), which has no finite weight
  explicit DiffusionObjective(const Scheduler& scheduler, const DiffusionLossOptions& options = {});
  /// Creates the objective of a forward process of the library. The tasks use it.
  /// @param process forward process, not null
  /// @param options loss and weights that the process was made with
  /// @throws ConfigError naming an option that the process does not support
  DiffusionObjective(std::shared_ptr<const ForwardProcess> process, const DiffusionLossOptions& options);

  /// Computes the target of the model's prediction.
  ///
  /// | prediction_type   | target                                          |
  /// |-------------------|-------------------------------------------------|
  /// | `epsilon`         | noise                                           |
  /// | `sample`          | x_0                                             |
  /// | `v_prediction`    | sqrt(abar_t) noise - sqrt(1 - abar_t) x_0       |
  /// | `flow_prediction` | noise - x_0                                     |
  ///
  /// @param x0 clean samples `[B, ...]`, floating
  /// @param noise the noise that was added, shape of x0
  /// @param timesteps `[B]`, see `operator()`
  /// @return target, shape of x0
  Tensor target(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const;
  /// Computes the weight of the squared error of the prediction, without the variational bound.
  /// @param timesteps `[B]`, see `operator()`
  /// @return float64 `[B]`
  /// @throws TensorError if the timesteps are of another dtype or out of range
  Tensor weights(const Tensor& timesteps) const;
  /// Computes the loss: the mean over the elements of each sample, times the weight, then reduced. The
  /// computation is in float32, or in float64 for float64 inputs.
  /// @param model_output `[B, C, ...]`, or `[B, 2 C, ...]` with a learned variance
  /// @param x0 clean samples `[B, C, ...]`, floating
  /// @param noise `[B, C, ...]`, floating
  /// @param timesteps `[B]`, integral, each in [0, T). For flow matching: sigma T, of any dtype
  /// @param log_variance `[B]`, learned log variance u: the simple loss becomes loss / exp(u) + u (latent
  ///        diffusion's `learn_logvar`, EDM2's uncertainty). Undefined: no log variance
  /// @return 0-dim, or `[B]` with LossReduction::kNone
  /// @throws TensorError if shapes, dtypes or devices do not fit, naming both sides
  Tensor operator()(const Tensor& model_output, const Tensor& x0, const Tensor& noise,
                    const Tensor& timesteps, const Tensor& log_variance = {}) const;

  /// @return the options as given
  const DiffusionLossOptions& options() const { return options_; }
  /// @return prediction type of the model
  PredictionType prediction_type() const;
  /// @return true if the model outputs a variance after its prediction
  bool has_learned_variance() const { return bound_.has_value(); }

 private:
  Tensor element_losses(const Tensor& difference, const Tensor& timesteps) const;
  Tensor variational_loss(const Tensor& model_output, const Tensor& x0, const Tensor& noise,
                          const Tensor& timesteps) const;

  std::shared_ptr<const ForwardProcess> process_;
  DiffusionLossOptions options_;
  std::optional<VariationalBound> bound_;
  DeviceTable huber_;  // float64 [T]; undefined if huber_c is constant
};

/// Computes the training loss of one batch. In a loop, create a DiffusionObjective once instead.
/// @param scheduler noise schedule and prediction type
/// @param model_output `[B, C, ...]`, or `[B, 2 C, ...]` with a learned variance
/// @param x0 clean samples `[B, C, ...]`, floating
/// @param noise the noise that was added, shape of x0
/// @param timesteps `[B]`, integral, each in [0, T). For flow matching: sigma T, of any dtype
/// @param options loss and weights
/// @return 0-dim, or `[B]` with LossReduction::kNone
/// @throws TensorError if shapes, dtypes or devices do not fit, naming both sides
/// @throws ConfigError as the constructor of DiffusionObjective
Tensor diffusion_loss(const Scheduler& scheduler, const Tensor& model_output, const Tensor& x0,
                      const Tensor& noise, const Tensor& timesteps, const DiffusionLossOptions& options = {});

/// Computes SNR_t = abar_t / (1 - abar_t) (`diffusers.training_utils.compute_snr`).
/// @param scheduler a scheduler with alphas_cumprod
/// @param timesteps integral, each in [0, T)
/// @return float32, shape of `timesteps`
/// @throws ConfigError if the scheduler has no alphas_cumprod
/// @throws TensorError for timesteps of another dtype or out of range
Tensor compute_snr(const Scheduler& scheduler, const Tensor& timesteps);

/// Options of `compute_density_for_timestep_sampling`, in Python's order.
struct TimestepDensityOptions {
  std::optional<double> logit_mean = std::nullopt;    ///< "logit_normal": mean of the normal number
  std::optional<double> logit_std = std::nullopt;     ///< "logit_normal": standard deviation, 0 or more
  std::optional<double> mode_scale = std::nullopt;    ///< "mode": concentration
  at::Device device = at::kCPU;                       ///< device of the result
  std::optional<Generator> generator = std::nullopt;  ///< source of the random numbers; none: the global one
};

/// Draws a position u in [0, 1] for each sample, with the density of SD3's training
/// (`diffusers.training_utils.compute_density_for_timestep_sampling`).
/// @param weighting_scheme "logit_normal" (needs logit_mean and logit_std) or "mode" (needs mode_scale). Any
///        other name is uniform
/// @param batch_size number of samples, 0 or more
/// @param options parameters of the density
/// @return float32 `[batch_size]`
/// @throws ConfigError if a parameter of the scheme is missing or out of range
Tensor compute_density_for_timestep_sampling(std::string_view weighting_scheme, int64_t batch_size,
                                             const TimestepDensityOptions& options = {});

/// Computes the loss weight of each sigma in SD3's training
/// (`diffusers.training_utils.compute_loss_weighting_for_sd3`).
/// @param weighting_scheme "sigma_sqrt" or "cosmap". Any other name gives ones
/// @param sigmas noise levels, floating, any shape
/// @return weights, shape of `sigmas`
/// @throws TensorError if `sigmas` is not floating
Tensor compute_loss_weighting_for_sd3(std::string_view weighting_scheme, const Tensor& sigmas);

}  // namespace diffusers
