#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_names.h>
#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/schedulers/enums.h>
#include <diffusers/schedulers/scheduler.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// How the error of one element counts. With c = huber_c, the last two are the pseudo-Huber losses of
/// diffusers' training scripts: `huber` is 2 c (sqrt(d^2 + c^2) - c), which tends to d^2 for large c;
/// `smooth_l1` is 2 (sqrt(d^2 + c^2) - c).
enum class LossType { kL2, kL1, kHuber, kSmoothL1 };

/// How huber_c runs with t: constant; exp(ln(c) t / T); or c + (1 - c) / (1 + sigma_t)^2 with
/// sigma_t^2 = (1 - abar_t) / abar_t.
enum class HuberSchedule { kConstant, kExponential, kSnr };

/// What becomes of the losses of the samples of a batch.
enum class LossReduction { kMean, kSum, kNone };

template <>
struct EnumNames<LossType> {
  static constexpr std::array<std::pair<LossType, std::string_view>, 4> kTable{{
      {LossType::kL2, "l2"},
      {LossType::kL1, "l1"},
      {LossType::kHuber, "huber"},
      {LossType::kSmoothL1, "smooth_l1"},
  }};
};

template <>
struct EnumNames<HuberSchedule> {
  static constexpr std::array<std::pair<HuberSchedule, std::string_view>, 3> kTable{{
      {HuberSchedule::kConstant, "constant"},
      {HuberSchedule::kExponential, "exponential"},
      {HuberSchedule::kSnr, "snr"},
  }};
};

template <>
struct EnumNames<LossReduction> {
  static constexpr std::array<std::pair<LossReduction, std::string_view>, 3> kTable{{
      {LossReduction::kMean, "mean"},
      {LossReduction::kSum, "sum"},
      {LossReduction::kNone, "none"},
  }};
};

struct DiffusionLossOptions {
  LossType loss_type = LossType::kL2;
  /// Min-SNR-gamma weighting (Hang et al. 2023, arXiv 2303.09556); the paper recommends 5. None: every t
  /// weighs 1.
  std::optional<double> snr_gamma = std::nullopt;
  HuberSchedule huber_schedule = HuberSchedule::kConstant;
  double huber_c = 0.1;
  LossReduction reduction = LossReduction::kMean;
};

/// What a denoiser is trained towards: the target that the scheduler's `prediction_type` asks for, the loss
/// of an element, and the weight of a timestep, with every table made once.
///
/// The min-SNR weight is min(SNR, gamma) in x_0 space, carried to what the model predicts: divided by SNR for
/// epsilon, by SNR + 1 for v.
class DiffusionObjective {
 public:
  /// @throws ConfigError naming the option and its value; also for `snr_gamma` with epsilon prediction where
  /// the schedule
  ///         ends at an SNR of zero (rescale_betas_zero_snr), and for `snr_gamma` with flow matching
  explicit DiffusionObjective(const Scheduler& scheduler, const DiffusionLossOptions& options = {});

  /// epsilon: the noise; sample: x_0; v_prediction: `scheduler.get_velocity`; flow_prediction: noise - x_0.
  Tensor target(const Tensor& x0, const Tensor& noise, const Tensor& timesteps) const;
  /// The weight of each sample, float32 `[B]`.
  Tensor weights(const Tensor& timesteps) const;
  /// The mean loss of each sample over its elements, weighted, then reduced.
  /// @param model_output, x0, noise `[B, ...]`, the same shape; computed in float32 at least
  /// @param timesteps `[B]`, integral, each in [0, num_train_timesteps)
  /// @return 0-dim, or `[B]` with LossReduction::kNone
  Tensor operator()(const Tensor& model_output, const Tensor& x0, const Tensor& noise,
                    const Tensor& timesteps) const;

  const DiffusionLossOptions& options() const { return options_; }

 private:
  Tensor gather(const Tensor& table, const Tensor& timesteps) const;

  std::shared_ptr<const Scheduler> scheduler_;
  DiffusionLossOptions options_;
  PredictionType prediction_type_ = PredictionType::kEpsilon;
  Tensor weight_table_;  // undefined where every weight is 1
  Tensor huber_table_;   // undefined where huber_c is constant
  // The tables where the last batch was: a copy a device, not a copy a step.
  mutable Tensor weight_on_device_, huber_on_device_;
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
