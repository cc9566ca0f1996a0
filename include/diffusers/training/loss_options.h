#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>

namespace diffusers {

/// Loss of one element, as a function of the difference d between prediction and target. c is `huber_c`.
/// `huber` and `smooth_l1` are the pseudo-Huber losses of diffusers' training scripts.
///
/// | name        | loss                                                        |
/// |-------------|-------------------------------------------------------------|
/// | `l2`        | d^2                                                         |
/// | `l1`        | absolute value of d                                         |
/// | `huber`     | 2 c (sqrt(d^2 + c^2) - c), which tends to d^2 for a large c |
/// | `smooth_l1` | 2 (sqrt(d^2 + c^2) - c)                                     |
enum class LossType { kL2, kL1, kHuber, kSmoothL1 };

/// Value of c in the Huber losses at timestep t, as in diffusers' training scripts. T is the number of
/// training timesteps and abar_t the cumulative product of the alphas.
///
/// | name          | c at timestep t                                                              |
/// |---------------|------------------------------------------------------------------------------|
/// | `constant`    | huber_c                                                                      |
/// | `exponential` | exp(ln(huber_c) t / T)                                                       |
/// | `snr`         | huber_c + (1 - huber_c) / (1 + sigma_t)^2, sigma_t^2 = (1 - abar_t) / abar_t |
enum class HuberSchedule { kConstant, kExponential, kSnr };

/// Reduction of the losses `[B]` of a batch: their mean, their sum, or no reduction.
enum class LossReduction { kMean, kSum, kNone };

/// Weight of the loss at a timestep. The table defines it for the squared error of x_0. It is converted to
/// the prediction's space, so that all prediction types minimise the same objective. An error d of x_0 is an
/// error of sqrt(SNR) d of epsilon, and of d / sigma_t of v and of a flow.
///
/// | name            | weight of the squared error of x_0 | source                                 |
/// |-----------------|------------------------------------|----------------------------------------|
/// | `none`          | weight 1 in the prediction's space | Ho et al. 2020, L_simple               |
/// | `min_snr`       | min(SNR, gamma)                    | Hang et al. 2023, arXiv 2303.09556     |
/// | `soft_min_snr`  | SNR gamma / (SNR + gamma)          | Crowson et al. 2024, arXiv 2401.11605  |
/// | `p2`            | SNR / (k + SNR)^gamma              | Choi et al. 2022, arXiv 2204.00227     |
/// | `edm`           | SNR + 1 / sigma_data^2             | Karras et al. 2022, arXiv 2206.00364   |
/// | `debiased`      | sqrt(SNR)                          | Yu et al. 2023, arXiv 2310.08442       |
/// | `truncated_snr` | max(SNR, 1)                        | Salimans and Ho 2022, arXiv 2202.00512 |
enum class LossWeighting { kNone, kMinSnr, kSoftMinSnr, kP2, kEdm, kDebiased, kTruncatedSnr };

/// The Python strings of `LossType`.
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

/// The Python strings of `HuberSchedule`.
template <>
struct EnumNames<HuberSchedule> {
  static constexpr std::string_view kKey = "huber_schedule";
  static constexpr std::array<std::pair<HuberSchedule, std::string_view>, 3> kTable{{
      {HuberSchedule::kConstant, "constant"},
      {HuberSchedule::kExponential, "exponential"},
      {HuberSchedule::kSnr, "snr"},
  }};
};

/// The Python strings of `LossReduction`.
template <>
struct EnumNames<LossReduction> {
  static constexpr std::string_view kKey = "reduction";
  static constexpr std::array<std::pair<LossReduction, std::string_view>, 3> kTable{{
      {LossReduction::kMean, "mean"},
      {LossReduction::kSum, "sum"},
      {LossReduction::kNone, "none"},
  }};
};

/// The Python strings of `LossWeighting`.
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

/// Options of `diffusion_loss` and `DiffusionObjective`. Both throw ConfigError for an option that was
/// changed from its default and has no effect, such as `p2_gamma` without the weighting `p2`.
struct DiffusionLossOptions {
  /// Loss of one element.
  EnumChoice<LossType> loss_type = LossType::kL2;
  /// gamma of the weightings `min_snr` and `soft_min_snr`, above 0. None: 5, the value of Hang et al. 2023.
  /// If it is set and `weighting` is `none`, the weighting is `min_snr`, as in diffusers' scripts.
  std::optional<double> snr_gamma = std::nullopt;
  /// Dependence of c on the timestep. Only for `huber` and `smooth_l1`. `exponential` and `snr` need discrete
  /// timesteps.
  EnumChoice<HuberSchedule> huber_schedule = HuberSchedule::kConstant;
  /// c of the Huber losses, above 0. Only for `huber` and `smooth_l1`.
  double huber_c = 0.1;
  /// Reduction of the losses of the samples.
  EnumChoice<LossReduction> reduction = LossReduction::kMean;
  /// Weight of the loss at a timestep.
  EnumChoice<LossWeighting> weighting = LossWeighting::kNone;
  /// gamma of the weighting `p2`, 0 or more. Only for `p2`.
  double p2_gamma = 1.0;
  /// k of the weighting `p2`, above 0. Only for `p2`.
  double p2_k = 1.0;
  /// Standard deviation of the data, above 0. Only for the weighting `edm`.
  double sigma_data = 0.5;
  /// Factor on the weighted loss L_simple, 0 or more. As in latent diffusion's DDPM module, the loss is
  /// l_simple_weight L_simple + original_elbo_weight L_vlb.
  double l_simple_weight = 1.0;
  /// Factor on L_vlb, the loss with the weights of the variational bound, 0 or more. The weight of the
  /// squared error of x_0 is (SNR_{t-1} - SNR_t) / 2. Latent diffusion's code has another weight for x_0
  /// prediction, because of a misplaced bracket. 0 disables it.
  double original_elbo_weight = 0.0;
  /// Factor on the variational bound in bits per dimension, 0 or more. The bound is added to the loss if the
  /// scheduler's `variance_type` is "learned" or "learned_range". None: T / 1000 (Nichol and Dhariwal 2021,
  /// arXiv 2102.09672).
  std::optional<double> vlb_weight = std::nullopt;
};

}  // namespace diffusers
