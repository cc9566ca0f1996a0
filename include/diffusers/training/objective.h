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

/// The training objective of a denoiser: the target that the scheduler's `prediction_type` asks for, the loss
/// of an element, and the weight of a timestep. Its tables are computed once, in float64.
///
/// If the scheduler's `variance_type` is learned or learned_range, the model outputs twice the channels of
/// x_0 and the loss is hybrid (Nichol and Dhariwal 2021): the variational bound is added, whose gradient
/// reaches the second half of the channels only.
class DiffusionObjective {
 public:
  /// @param scheduler gives the noise schedule and the prediction type
  /// @param options loss and weights
  /// @throws ConfigError naming an option that is out of range or has no effect; also for every weighting but
  /// `none` with epsilon prediction where the schedule ends at an SNR of zero (`rescale_betas_zero_snr`),
  /// since no finite weight exists there
  explicit DiffusionObjective(const Scheduler& scheduler, const DiffusionLossOptions& options = {});
  /// Makes the objective of a forward process of the library; the tasks use it.
  /// @param process not null
  /// @param options loss and weights that the process was made with
  /// @throws ConfigError naming an option that the process cannot serve
  DiffusionObjective(std::shared_ptr<const ForwardProcess> process, const DiffusionLossOptions& options);

  /// Computes what the model is trained to predict.
  ///
  /// | prediction_type   | target                                          |
  /// |-------------------|-------------------------------------------------|
  /// | `epsilon`         | noise                                           |
  /// | `sample`          | x_0                                             |
  /// | `v_prediction`    | sqrt(abar_t) noise - sqrt(1 - abar_t) x_0       |
  /// | `flow_prediction` | noise - x_0                                     |
  ///
  /// @param x0 clean samples `[B, ...]`, floating
  /// @param noise shape of x0
  /// @param timesteps `[B]`, see `operator()`
  /// @return shape of x0
  Tensor target(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const;
  /// Computes the weight of the squared error of the prediction, without the variational bound.
  /// @param timesteps `[B]`, see `operator()`
  /// @return float64 `[B]`
  /// @throws TensorError if the timesteps are of another dtype or out of range
  Tensor weights(const Tensor& timesteps) const;
  /// Computes the loss: the mean over the elements of each sample, weighted, then reduced. It is computed in
  /// float32, or in float64 for float64 inputs.
  /// @param model_output `[B, C, ...]`, or `[B, 2 C, ...]` with a learned variance
  /// @param x0 clean samples `[B, C, ...]`, floating
  /// @param noise `[B, C, ...]`, floating
  /// @param timesteps `[B]`, integral, each in [0, T); for flow matching sigma T, of any dtype
  /// @param log_variance `[B]`, a learned u_t, with which the simple loss becomes loss / exp(u_t) + u_t
  /// (latent diffusion's `learn_logvar`, EDM2's uncertainty). Undefined: none
  /// @return 0-dim, or `[B]` with LossReduction::kNone
  /// @throws TensorError if shapes, dtypes or devices do not fit, naming both sides
  Tensor operator()(const Tensor& model_output, const Tensor& x0, const Tensor& noise,
                    const Tensor& timesteps, const Tensor& log_variance = {}) const;

  /// @return the options as given
  const DiffusionLossOptions& options() const { return options_; }
  /// @return what the model predicts
  PredictionType prediction_type() const;
  /// @return true if the model outputs a variance beside its prediction
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

/// Computes the training loss of one batch. A program that computes many makes a DiffusionObjective once.
/// @param scheduler gives the noise schedule and the prediction type
/// @param model_output `[B, C, ...]`, or `[B, 2 C, ...]` with a learned variance
/// @param x0 clean samples `[B, C, ...]`, floating
/// @param noise the noise that was added, shape of x0
/// @param timesteps `[B]`, integral, each in [0, T); for flow matching sigma T, of any dtype
/// @param options loss and weights
/// @return 0-dim, or `[B]` with LossReduction::kNone
/// @throws TensorError if shapes, dtypes or devices do not fit, naming both sides; ConfigError as
/// DiffusionObjective
Tensor diffusion_loss(const Scheduler& scheduler, const Tensor& model_output, const Tensor& x0,
                      const Tensor& noise, const Tensor& timesteps, const DiffusionLossOptions& options = {});

/// Computes SNR_t = abar_t / (1 - abar_t) (`diffusers.training_utils.compute_snr`).
/// @param scheduler a scheduler with alphas_cumprod
/// @param timesteps integral, each in [0, T)
/// @return float32, shape of `timesteps`
/// @throws ConfigError if the scheduler has no alphas_cumprod; TensorError for other timesteps
Tensor compute_snr(const Scheduler& scheduler, const Tensor& timesteps);

/// Options of `compute_density_for_timestep_sampling`, in Python's order.
struct TimestepDensityOptions {
  std::optional<double> logit_mean = std::nullopt;    ///< mean of the normal number of "logit_normal"
  std::optional<double> logit_std = std::nullopt;     ///< its standard deviation, at least 0
  std::optional<double> mode_scale = std::nullopt;    ///< concentration of "mode"
  at::Device device = at::kCPU;                       ///< where the numbers are made
  std::optional<Generator> generator = std::nullopt;  ///< source of the random numbers; none: the global one
};

/// Draws a position u in [0, 1] for each sample, with the density of SD3's training
/// (`diffusers.training_utils`).
/// @param weighting_scheme "logit_normal" (needs logit_mean and logit_std), "mode" (needs mode_scale); any
/// other name is uniform
/// @param batch_size number of samples, at least 0
/// @param options parameters of the density
/// @return float32 `[batch_size]`
/// @throws ConfigError if a parameter of the scheme is missing or out of range
Tensor compute_density_for_timestep_sampling(std::string_view weighting_scheme, int64_t batch_size,
                                             const TimestepDensityOptions& options = {});

/// Computes the loss weight of each sigma in SD3's training (`diffusers.training_utils`).
/// @param weighting_scheme "sigma_sqrt", "cosmap"; any other name gives ones
/// @param sigmas floating
/// @return shape of `sigmas`
/// @throws TensorError if `sigmas` is not floating
Tensor compute_loss_weighting_for_sd3(std::string_view weighting_scheme, const Tensor& sigmas);

}  // namespace diffusers
