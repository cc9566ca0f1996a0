#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>

namespace diffusers {

/// Loss of one element, as a function of the difference d of prediction and target. `c` is `huber_c`; the
/// last two are the pseudo-Huber losses of diffusers' training scripts.
///
/// | name        | loss                                                        |
/// |-------------|-------------------------------------------------------------|
/// | `l2`        | d^2                                                         |
/// | `l1`        | absolute value of d                                         |
/// | `huber`     | 2 c (sqrt(d^2 + c^2) - c), which tends to d^2 for a large c |
/// | `smooth_l1` | 2 (sqrt(d^2 + c^2) - c)                                     |
enum class LossType { kL2, kL1, kHuber, kSmoothL1 };

/// Value of c in the Huber losses at timestep t.
///
/// | name          | c at timestep t                                                              |
/// |---------------|------------------------------------------------------------------------------|
/// | `constant`    | huber_c                                                                      |
/// | `exponential` | exp(ln(huber_c) t / T)                                                       |
/// | `snr`         | huber_c + (1 - huber_c) / (1 + sigma_t)^2, sigma_t^2 = (1 - abar_t) / abar_t |
enum class HuberSchedule { kConstant, kExponential, kSnr };

/// Reduction of the losses of the samples of a batch: their mean, their sum, or none, which keeps `[B]`.
enum class LossReduction { kMean, kSum, kNone };

/// Weight of the loss of a timestep. Each is defined as a weight of the squared error of x_0 and converted to
/// the space of the prediction, so that every prediction type minimises the same objective: an error d of x_0
/// is an error sqrt(SNR) d of epsilon and d / sigma_t of v and of a flow.
///
/// | name            | weight of the squared error of x_0 | source                                 |
/// |-----------------|------------------------------------|----------------------------------------|
/// | `none`          | gives the prediction a weight of 1 | Ho et al. 2020, L_simple               |
/// | `min_snr`       | min(SNR, gamma)                    | Hang et al. 2023, arXiv 2303.09556     |
/// | `soft_min_snr`  | SNR gamma / (SNR + gamma)          | Crowson et al. 2024, arXiv 2401.11605  |
/// | `p2`            | SNR / (k + SNR)^gamma              | Choi et al. 2022, arXiv 2204.00227     |
/// | `edm`           | SNR + 1 / sigma_data^2             | Karras et al. 2022, arXiv 2206.00364   |
/// | `debiased`      | sqrt(SNR)                          | Yu et al. 2023, arXiv 2310.08442       |
/// | `truncated_snr` | max(SNR, 1)                        | Salimans and Ho 2022, arXiv 2202.00512 |
enum class LossWeighting { kNone, kMinSnr, kSoftMinSnr, kP2, kEdm, kDebiased, kTruncatedSnr };

/// Names of the loss types.
template <>
struct EnumNames<LossType> {
  static constexpr std::string_view kKey = "loss_type";
  static constexpr std::array<std::pair<LossType, std::string_view>, 4> kTable{{
      {LossType::kL2, "l2"},
      {LossType::kL1, "l1"},
      {LossType::kHuber, "huber"},
      {LossType::kSmoothL1, "smooth_l1"},
  }};
};

/// Names of the schedules of huber_c.
template <>
struct EnumNames<HuberSchedule> {
  static constexpr std::string_view kKey = "huber_schedule";
  static constexpr std::array<std::pair<HuberSchedule, std::string_view>, 3> kTable{{
      {HuberSchedule::kConstant, "constant"},
      {HuberSchedule::kExponential, "exponential"},
      {HuberSchedule::kSnr, "snr"},
  }};
};

/// Names of the reductions.
template <>
struct EnumNames<LossReduction> {
  static constexpr std::string_view kKey = "reduction";
  static constexpr std::array<std::pair<LossReduction, std::string_view>, 3> kTable{{
      {LossReduction::kMean, "mean"},
      {LossReduction::kSum, "sum"},
      {LossReduction::kNone, "none"},
  }};
};

/// Names of the weightings.
template <>
struct EnumNames<LossWeighting> {
  static constexpr std::string_view kKey = "weighting";
  static constexpr std::array<std::pair<LossWeighting, std::string_view>, 7> kTable{{
      {LossWeighting::kNone, "none"},
      {LossWeighting::kMinSnr, "min_snr"},
      {LossWeighting::kSoftMinSnr, "soft_min_snr"},
      {LossWeighting::kP2, "p2"},
      {LossWeighting::kEdm, "edm"},
      {LossWeighting::kDebiased, "debiased"},
      {LossWeighting::kTruncatedSnr, "truncated_snr"},
  }};
};

/// Options of `diffusion_loss` and `DiffusionObjective`. An option that was changed and has no effect is
/// refused with a ConfigError, such as `p2_gamma` without the weighting `p2`.
struct DiffusionLossOptions {
  /// Loss of one element.
  EnumChoice<LossType> loss_type = LossType::kL2;
  /// gamma of the weightings `min_snr` and `soft_min_snr`, above 0. None: 5, the value of the paper. If it is
  /// set and `weighting` is `none`, the weighting is `min_snr`, as in diffusers' scripts.
  std::optional<double> snr_gamma = std::nullopt;
  /// How c of the Huber losses depends on the timestep.
  EnumChoice<HuberSchedule> huber_schedule = HuberSchedule::kConstant;
  /// c of the Huber losses, above 0.
  double huber_c = 0.1;
  /// What becomes of the losses of the samples.
  EnumChoice<LossReduction> reduction = LossReduction::kMean;
  /// Weight of a timestep.
  EnumChoice<LossWeighting> weighting = LossWeighting::kNone;
  /// gamma of the weighting `p2`, at least 0.
  double p2_gamma = 1.0;
  /// k of the weighting `p2`, above 0.
  double p2_k = 1.0;
  /// Standard deviation of the data, above 0; for the weighting `edm`.
  double sigma_data = 0.5;
  /// Factor of the weighted loss, at least 0. This and the next are those of latent diffusion's DDPM module:
  /// the loss is l_simple_weight L_simple + original_elbo_weight L_vlb.
  double l_simple_weight = 1.0;
  /// Factor of the loss with the weights of the variational bound, at least 0. The bound weighs the squared
  /// error of x_0 with (SNR_{t-1} - SNR_t) / 2. (Latent diffusion's weight for x_0 prediction differs by
  /// mistake.)
  double original_elbo_weight = 0.0;
  /// Factor of the variational bound in bits per dimension, at least 0, which is added where the scheduler's
  /// `variance_type` is learned or learned_range. None: T / 1000 (Nichol and Dhariwal 2021, arXiv
  /// 2102.09672).
  std::optional<double> vlb_weight = std::nullopt;
};

}  // namespace diffusers
