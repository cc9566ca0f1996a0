#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/enums.h>
#include <diffusers/schedulers/noise_schedule.h>
#include <diffusers/schedulers/scheduler.h>
#include <diffusers/training/loss_options.h>
#include <diffusers/training/variational_bound.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// What a denoiser is trained towards: the target that the scheduler's `prediction_type` asks for, the loss
/// of an element, and the weight of a timestep. Tables are made once, in float64.
///
/// Where the scheduler's `variance_type` is learned or learned_range, the model gives twice the channels of
/// x_0, and the loss is hybrid (Nichol and Dhariwal 2021): the second half is trained by the variational
/// bound, in which the mean that the first half gives is held fixed.
class DiffusionObjective {
 public:
  /// @throws ConfigError naming the option and its value; also for every weighting but `none` with epsilon
  /// prediction where the schedule ends at an SNR of zero (rescale_betas_zero_snr), since no finite loss is
  /// there
  explicit DiffusionObjective(const Scheduler& scheduler, const DiffusionLossOptions& options = {});

  /// epsilon: the noise; sample: x_0; v_prediction: sqrt(abar_t) noise - sqrt(1 - abar_t) x_0;
  /// flow_prediction: noise - x_0.
  Tensor target(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const;
  /// What the squared error of the prediction weighs at each timestep, float64 `[B]`, without the variational
  /// bound.
  Tensor weights(const Tensor& timesteps) const;
  /// The mean loss of each sample over its elements, weighted, then reduced.
  /// @param model_output `[B, C, ...]`, or `[B, 2 C, ...]` with a learned variance; computed in float32 at
  /// least
  /// @param x0, noise `[B, C, ...]`
  /// @param timesteps `[B]`, integral, each in [0, num_train_timesteps); for flow matching sigma times
  /// num_train_timesteps, of any dtype
  /// @param log_variance `[B]`, a learned u_t: the simple loss becomes loss / exp(u_t) + u_t (LDM's
  /// `learn_logvar`, EDM2's uncertainty). Undefined: none
  /// @return 0-dim, or `[B]` with LossReduction::kNone
  Tensor operator()(const Tensor& model_output, const Tensor& x0, const Tensor& noise,
                    const Tensor& timesteps, const Tensor& log_variance = {}) const;

  const DiffusionLossOptions& options() const { return options_; }
  PredictionType prediction_type() const { return prediction_type_; }
  /// True if the model gives a variance besides its prediction.
  bool has_learned_variance() const { return bound_.has_value(); }

 private:
  /// A table of one number a timestep, and its copy where the last batch was: a copy a device, not a step.
  struct Table {
    Tensor values;
    mutable Tensor on_device;
    Tensor at(const Tensor& timesteps) const;
  };

  Tensor element_losses(const Tensor& difference, const Tensor& timesteps) const;
  Tensor variational_loss(const Tensor& model_output, const Tensor& x0, const Tensor& noise,
                          const Tensor& timesteps) const;
  Tensor weight_of_squared_error(const Tensor& timesteps) const;

  std::shared_ptr<const Scheduler> scheduler_;
  std::optional<NoiseSchedule> schedule_;  // none: the scheduler noises by itself
  DiffusionLossOptions options_;
  PredictionType prediction_type_ = PredictionType::kEpsilon;
  std::optional<VariationalBound> bound_;
  Table weights_;  // undefined where every weight is 1, and for flow matching, whose weights have a formula
  Table elbo_weights_;
  Table huber_;  // undefined where huber_c is constant
};

/// The loss of one batch; a program that computes many makes a DiffusionObjective once.
/// @throws TensorError if shapes, dtypes or devices do not fit, naming both sides; ConfigError as
/// DiffusionObjective
Tensor diffusion_loss(const Scheduler& scheduler, const Tensor& model_output, const Tensor& x0,
                      const Tensor& noise, const Tensor& timesteps, const DiffusionLossOptions& options = {});

/// SNR_t = abar_t / (1 - abar_t), float32, shape of `timesteps` (diffusers.training_utils.compute_snr).
Tensor compute_snr(const Scheduler& scheduler, const Tensor& timesteps);

struct TimestepDensityOptions {
  std::optional<double> logit_mean = std::nullopt;
  std::optional<double> logit_std = std::nullopt;
  std::optional<double> mode_scale = std::nullopt;
  at::Device device = at::kCPU;
  std::optional<Generator> generator = std::nullopt;
};

/// u in [0, 1] for each sample, distributed as SD3's training draws it (diffusers.training_utils).
/// @param weighting_scheme "logit_normal" (needs logit_mean, logit_std), "mode" (needs mode_scale); any
/// other: uniform
/// @return float32 `[batch_size]`
Tensor compute_density_for_timestep_sampling(std::string_view weighting_scheme, int64_t batch_size,
                                             const TimestepDensityOptions& options = {});

/// The loss weight of each sigma in SD3's training: "sigma_sqrt", "cosmap"; any other: ones
/// (diffusers.training_utils).
Tensor compute_loss_weighting_for_sd3(std::string_view weighting_scheme, const Tensor& sigmas);

}  // namespace diffusers
