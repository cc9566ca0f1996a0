#pragma once

#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>

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

/// How much the loss of a timestep counts. Each is defined as a weight of the error of x_0 and carried from
/// there to what the model predicts, so that the choice of prediction does not change what is minimised:
/// an error d of x_0 is an error sqrt(SNR) d of epsilon, d / sigma_t of v, and d / sigma_t of a flow.
///
/// | name            | weight of the error of x_0                 | source |
/// |-----------------|--------------------------------------------|-------------------------------------------|
/// | `none`          | that which makes the prediction's weight 1 | Ho et al. 2020, L_simple | | `min_snr` |
/// min(SNR, gamma)                            | Hang et al. 2023, arXiv 2303.09556        | | `soft_min_snr`
/// | SNR gamma / (SNR + gamma)                  | Crowson et al. 2024, arXiv 2401.11605     | | `p2` | SNR /
/// (k + SNR)^gamma                      | Choi et al. 2022, arXiv 2204.00227        | | `edm`           | SNR
/// + 1 / sigma_data^2                     | Karras et al. 2022, arXiv 2206.00364      | | `debiased`      |
/// sqrt(SNR)                                  | Yu et al. 2023, arXiv 2310.08442          | | `truncated_snr`
/// | max(SNR, 1)                                | Salimans and Ho 2022, arXiv 2202.00512    |
enum class LossWeighting { kNone, kMinSnr, kSoftMinSnr, kP2, kEdm, kDebiased, kTruncatedSnr };

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

template <>
struct EnumNames<HuberSchedule> {
  static constexpr std::string_view kKey = "huber_schedule";
  static constexpr std::array<std::pair<HuberSchedule, std::string_view>, 3> kTable{{
      {HuberSchedule::kConstant, "constant"},
      {HuberSchedule::kExponential, "exponential"},
      {HuberSchedule::kSnr, "snr"},
  }};
};

template <>
struct EnumNames<LossReduction> {
  static constexpr std::string_view kKey = "reduction";
  static constexpr std::array<std::pair<LossReduction, std::string_view>, 3> kTable{{
      {LossReduction::kMean, "mean"},
      {LossReduction::kSum, "sum"},
      {LossReduction::kNone, "none"},
  }};
};

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

struct DiffusionLossOptions {
  EnumChoice<LossType> loss_type = LossType::kL2;
  /// gamma of `min_snr` and `soft_min_snr`; none: 5, which the paper recommends. Given alone, without a
  /// `weighting`, it means `min_snr`, as in diffusers' scripts.
  std::optional<double> snr_gamma = std::nullopt;
  EnumChoice<HuberSchedule> huber_schedule = HuberSchedule::kConstant;
  double huber_c = 0.1;
  EnumChoice<LossReduction> reduction = LossReduction::kMean;
  EnumChoice<LossWeighting> weighting = LossWeighting::kNone;
  double p2_gamma = 1.0;
  double p2_k = 1.0;
  double sigma_data = 0.5;  ///< of the `edm` weighting: the standard deviation of the data
  /// The loss is `l_simple_weight` times the one above plus `original_elbo_weight` times the one that the
  /// variational bound weighs, whose weight of the error of x_0 is (SNR_{t-1} - SNR_t) / 2 (LDM's DDPM
  /// module; there the weight of x_0 prediction is another by mistake).
  double l_simple_weight = 1.0;
  double original_elbo_weight = 0.0;
  /// Where the scheduler's variance_type is learned or learned_range: what the variational bound, in bits per
  /// dimension, counts beside the loss above. None: T / 1000 (Nichol and Dhariwal 2021, arXiv 2102.09672).
  std::optional<double> vlb_weight = std::nullopt;
};

}  // namespace diffusers
