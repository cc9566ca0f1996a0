#pragma once

#include <array>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>

namespace diffusers {

/// Beta schedule of the forward process, from t = 0 to T - 1.
enum class BetaSchedule {
  kLinear,           ///< Linear in beta (Ho et al. 2020).
  kScaledLinear,     ///< Linear in sqrt(beta) (Rombach et al. 2022).
  kSquaredcosCapV2,  ///< Cosine abar (Nichol and Dhariwal 2021, eq. 17).
  kSigmoid,          ///< Sigmoid of a line from -6 to 6.
  kLaplace,          ///< SNR of a Laplace distribution.
  kExp               ///< Exponential abar; HeunDiscreteScheduler only, as in Python.
};

/// Quantity that the model predicts.
enum class PredictionType {
  kEpsilon,         ///< The noise.
  kSample,          ///< The clean sample x_0.
  kVPrediction,     ///< v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho 2022).
  kFlowPrediction,  ///< The velocity eps - x_0 of flow matching.
  kOriginalSample   ///< EulerDiscreteScheduler: the same as kSample.
};

/// The variance of the reverse process of DDPM.
enum class VarianceType {
  kFixedSmall,     ///< beta~_t, the variance of the posterior (Ho et al. 2020, eq. 7).
  kFixedSmallLog,  ///< beta~_t, computed from its logarithm.
  kFixedLarge,     ///< beta_t.
  kFixedLargeLog,  ///< beta_t, computed from its logarithm.
  kLearned,        ///< The second half of the model's output channels.
  kLearnedRange    ///< Interpolated between beta~_t and beta_t (Nichol and Dhariwal 2021, eq. 15).
};

/// Spacing of the steps of a run over the training timesteps (Lin et al. 2023, arXiv 2305.08891, table 2).
enum class TimestepSpacing {
  kLinspace,  ///< Evenly spaced from T - 1 to 0.
  kLeading,   ///< Multiples of T / n, starting at 0. The run does not visit the last training timestep.
  kTrailing   ///< Multiples of T / n, counted down from T - 1.
};

/// The last sigma of a run.
enum class FinalSigmasType {
  kZero,     ///< 0.
  kSigmaMin  ///< The sigma of the first training timestep.
};

/// EulerDiscreteScheduler: interpolation of sigmas between training timesteps.
enum class InterpolationType {
  kLinear,    ///< Linear in t.
  kLogLinear  ///< Evenly spread in log(sigma).
};

/// EulerDiscreteScheduler: timesteps of the model.
enum class TimestepType {
  kDiscrete,   ///< Training timesteps.
  kContinuous  ///< log(sigma) / 4, for the preconditioned networks of EDM.
};

/// EDM: spacing of the sigmas from sigma_max to sigma_min.
enum class SigmaScheduleType {
  kKarras,      ///< Evenly spaced in sigma^(1 / rho) (Karras et al. 2022, eq. 5).
  kExponential  ///< Evenly spaced in log(sigma).
};

/// Flow matching: form of the shift of the sigmas by `mu`.
enum class TimeShiftType {
  kExponential,  ///< The weight of the shift is exp(mu).
  kLinear        ///< The weight of the shift is mu.
};

/// Integrator of the DPM-Solver family. A class converts an integrator that only other classes have to its
/// own default, as in Python.
enum class AlgorithmType {
  kDpmsolver,             ///< DPM-Solver: integrates epsilon.
  kDpmsolverPlusPlus,     ///< DPM-Solver++: integrates x_0.
  kSdeDpmsolver,          ///< The stochastic form of DPM-Solver.
  kSdeDpmsolverPlusPlus,  ///< The stochastic form of DPM-Solver++.
  kDeis,                  ///< DEISMultistepScheduler: the only integrator.
  kDataPrediction,        ///< SASolverScheduler: integrates x_0.
  kNoisePrediction        ///< SASolverScheduler: integrates epsilon.
};

/// Form of the second-order terms of the DPM-Solver family. It is converted like AlgorithmType.
enum class SolverType {
  kMidpoint,  ///< DPM-Solver: midpoint.
  kHeun,      ///< DPM-Solver: Heun.
  kLogrho,    ///< DEISMultistepScheduler: the log-rho form.
  kBh1,       ///< UniPCMultistepScheduler: B(h) = h.
  kBh2        ///< UniPCMultistepScheduler: B(h) = exp(h) - 1.
};

/// Python's strings of FinalSigmasType.
template <>
struct EnumNames<FinalSigmasType> {
  static constexpr std::string_view kKey = "final_sigmas_type";
  static constexpr std::array<std::pair<FinalSigmasType, std::string_view>, 2> kTable{{
      {FinalSigmasType::kZero, "zero"},
      {FinalSigmasType::kSigmaMin, "sigma_min"},
  }};
};

/// Python's strings of InterpolationType.
template <>
struct EnumNames<InterpolationType> {
  static constexpr std::string_view kKey = "interpolation_type";
  static constexpr std::array<std::pair<InterpolationType, std::string_view>, 2> kTable{{
      {InterpolationType::kLinear, "linear"},
      {InterpolationType::kLogLinear, "log_linear"},
  }};
};

/// Python's strings of TimestepType.
template <>
struct EnumNames<TimestepType> {
  static constexpr std::string_view kKey = "timestep_type";
  static constexpr std::array<std::pair<TimestepType, std::string_view>, 2> kTable{{
      {TimestepType::kDiscrete, "discrete"},
      {TimestepType::kContinuous, "continuous"},
  }};
};

/// Python's strings of SigmaScheduleType.
template <>
struct EnumNames<SigmaScheduleType> {
  static constexpr std::string_view kKey = "sigma_schedule";
  static constexpr std::array<std::pair<SigmaScheduleType, std::string_view>, 2> kTable{{
      {SigmaScheduleType::kKarras, "karras"},
      {SigmaScheduleType::kExponential, "exponential"},
  }};
};

/// Python's strings of TimeShiftType.
template <>
struct EnumNames<TimeShiftType> {
  static constexpr std::string_view kKey = "time_shift_type";
  static constexpr std::array<std::pair<TimeShiftType, std::string_view>, 2> kTable{{
      {TimeShiftType::kExponential, "exponential"},
      {TimeShiftType::kLinear, "linear"},
  }};
};

/// Python's strings of AlgorithmType.
template <>
struct EnumNames<AlgorithmType> {
  static constexpr std::string_view kKey = "algorithm_type";
  static constexpr std::array<std::pair<AlgorithmType, std::string_view>, 7> kTable{{
      {AlgorithmType::kDpmsolver, "dpmsolver"},
      {AlgorithmType::kDpmsolverPlusPlus, "dpmsolver++"},
      {AlgorithmType::kSdeDpmsolver, "sde-dpmsolver"},
      {AlgorithmType::kSdeDpmsolverPlusPlus, "sde-dpmsolver++"},
      {AlgorithmType::kDeis, "deis"},
      {AlgorithmType::kDataPrediction, "data_prediction"},
      {AlgorithmType::kNoisePrediction, "noise_prediction"},
  }};
};

/// Python's strings of SolverType.
template <>
struct EnumNames<SolverType> {
  static constexpr std::string_view kKey = "solver_type";
  static constexpr std::array<std::pair<SolverType, std::string_view>, 5> kTable{{
      {SolverType::kMidpoint, "midpoint"},
      {SolverType::kHeun, "heun"},
      {SolverType::kLogrho, "logrho"},
      {SolverType::kBh1, "bh1"},
      {SolverType::kBh2, "bh2"},
  }};
};

/// Python's strings of BetaSchedule.
template <>
struct EnumNames<BetaSchedule> {
  static constexpr std::string_view kKey = "beta_schedule";
  static constexpr std::array<std::pair<BetaSchedule, std::string_view>, 6> kTable{{
      {BetaSchedule::kLinear, "linear"},
      {BetaSchedule::kScaledLinear, "scaled_linear"},
      {BetaSchedule::kSquaredcosCapV2, "squaredcos_cap_v2"},
      {BetaSchedule::kSigmoid, "sigmoid"},
      {BetaSchedule::kLaplace, "laplace"},
      {BetaSchedule::kExp, "exp"},
  }};
};

/// Python's strings of PredictionType.
template <>
struct EnumNames<PredictionType> {
  static constexpr std::string_view kKey = "prediction_type";
  static constexpr std::array<std::pair<PredictionType, std::string_view>, 5> kTable{{
      {PredictionType::kEpsilon, "epsilon"},
      {PredictionType::kSample, "sample"},
      {PredictionType::kVPrediction, "v_prediction"},
      {PredictionType::kFlowPrediction, "flow_prediction"},
      {PredictionType::kOriginalSample, "original_sample"},
  }};
};

/// Python's strings of VarianceType.
template <>
struct EnumNames<VarianceType> {
  static constexpr std::string_view kKey = "variance_type";
  static constexpr std::array<std::pair<VarianceType, std::string_view>, 6> kTable{{
      {VarianceType::kFixedSmall, "fixed_small"},
      {VarianceType::kFixedSmallLog, "fixed_small_log"},
      {VarianceType::kFixedLarge, "fixed_large"},
      {VarianceType::kFixedLargeLog, "fixed_large_log"},
      {VarianceType::kLearned, "learned"},
      {VarianceType::kLearnedRange, "learned_range"},
  }};
};

/// Python's strings of TimestepSpacing.
template <>
struct EnumNames<TimestepSpacing> {
  static constexpr std::string_view kKey = "timestep_spacing";
  static constexpr std::array<std::pair<TimestepSpacing, std::string_view>, 3> kTable{{
      {TimestepSpacing::kLinspace, "linspace"},
      {TimestepSpacing::kLeading, "leading"},
      {TimestepSpacing::kTrailing, "trailing"},
  }};
};

}  // namespace diffusers
