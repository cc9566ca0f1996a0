#pragma once

#include <array>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_names.h>

namespace diffusers {

/// How the betas of the forward process run from t = 0 to T - 1. `kExp` is known to the Heun scheduler of
/// Python only.
enum class BetaSchedule { kLinear, kScaledLinear, kSquaredcosCapV2, kSigmoid, kLaplace, kExp };

/// What the model predicts.
enum class PredictionType { kEpsilon, kSample, kVPrediction, kFlowPrediction, kOriginalSample };

/// The variance of the reverse process of DDPM.
enum class VarianceType { kFixedSmall, kFixedSmallLog, kFixedLarge, kFixedLargeLog, kLearned, kLearnedRange };

/// How the steps of a run are spread over the training timesteps (Lin et al. 2023, arXiv 2305.08891, table
/// 2).
enum class TimestepSpacing { kLinspace, kLeading, kTrailing };

/// The last sigma of a run: 0, or that of the first training timestep.
enum class FinalSigmasType { kZero, kSigmaMin };

/// Euler: sigmas between training timesteps, linear in t or evenly spread in log sigma.
enum class InterpolationType { kLinear, kLogLinear };

/// Euler: timesteps are training timesteps, or log(sigma) / 4 as the preconditioned networks of EDM take it.
enum class TimestepType { kDiscrete, kContinuous };

/// EDM: how sigmas run from sigma_max to sigma_min.
enum class SigmaScheduleType { kKarras, kExponential };

/// Flow matching: how `mu` shifts the sigmas.
enum class TimeShiftType { kExponential, kLinear };

/// The integrator of the DPM-Solver family. A class that lacks one of another class takes its own, as in
/// Python.
enum class AlgorithmType {
  kDpmsolver,
  kDpmsolverPlusPlus,
  kSdeDpmsolver,
  kSdeDpmsolverPlusPlus,
  kDeis,
  kDataPrediction,
  kNoisePrediction
};

/// How the DPM-Solver family forms its second-order terms; converted like AlgorithmType.
enum class SolverType { kMidpoint, kHeun, kLogrho, kBh1, kBh2 };

template <>
struct EnumNames<FinalSigmasType> {
  static constexpr std::array<std::pair<FinalSigmasType, std::string_view>, 2> kTable{{
      {FinalSigmasType::kZero, "zero"},
      {FinalSigmasType::kSigmaMin, "sigma_min"},
  }};
};

template <>
struct EnumNames<InterpolationType> {
  static constexpr std::array<std::pair<InterpolationType, std::string_view>, 2> kTable{{
      {InterpolationType::kLinear, "linear"},
      {InterpolationType::kLogLinear, "log_linear"},
  }};
};

template <>
struct EnumNames<TimestepType> {
  static constexpr std::array<std::pair<TimestepType, std::string_view>, 2> kTable{{
      {TimestepType::kDiscrete, "discrete"},
      {TimestepType::kContinuous, "continuous"},
  }};
};

template <>
struct EnumNames<SigmaScheduleType> {
  static constexpr std::array<std::pair<SigmaScheduleType, std::string_view>, 2> kTable{{
      {SigmaScheduleType::kKarras, "karras"},
      {SigmaScheduleType::kExponential, "exponential"},
  }};
};

template <>
struct EnumNames<TimeShiftType> {
  static constexpr std::array<std::pair<TimeShiftType, std::string_view>, 2> kTable{{
      {TimeShiftType::kExponential, "exponential"},
      {TimeShiftType::kLinear, "linear"},
  }};
};

template <>
struct EnumNames<AlgorithmType> {
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

template <>
struct EnumNames<SolverType> {
  static constexpr std::array<std::pair<SolverType, std::string_view>, 5> kTable{{
      {SolverType::kMidpoint, "midpoint"},
      {SolverType::kHeun, "heun"},
      {SolverType::kLogrho, "logrho"},
      {SolverType::kBh1, "bh1"},
      {SolverType::kBh2, "bh2"},
  }};
};

template <>
struct EnumNames<BetaSchedule> {
  static constexpr std::array<std::pair<BetaSchedule, std::string_view>, 6> kTable{{
      {BetaSchedule::kLinear, "linear"},
      {BetaSchedule::kScaledLinear, "scaled_linear"},
      {BetaSchedule::kSquaredcosCapV2, "squaredcos_cap_v2"},
      {BetaSchedule::kSigmoid, "sigmoid"},
      {BetaSchedule::kLaplace, "laplace"},
      {BetaSchedule::kExp, "exp"},
  }};
};

template <>
struct EnumNames<PredictionType> {
  static constexpr std::array<std::pair<PredictionType, std::string_view>, 5> kTable{{
      {PredictionType::kEpsilon, "epsilon"},
      {PredictionType::kSample, "sample"},
      {PredictionType::kVPrediction, "v_prediction"},
      {PredictionType::kFlowPrediction, "flow_prediction"},
      {PredictionType::kOriginalSample, "original_sample"},
  }};
};

template <>
struct EnumNames<VarianceType> {
  static constexpr std::array<std::pair<VarianceType, std::string_view>, 6> kTable{{
      {VarianceType::kFixedSmall, "fixed_small"},
      {VarianceType::kFixedSmallLog, "fixed_small_log"},
      {VarianceType::kFixedLarge, "fixed_large"},
      {VarianceType::kFixedLargeLog, "fixed_large_log"},
      {VarianceType::kLearned, "learned"},
      {VarianceType::kLearnedRange, "learned_range"},
  }};
};

template <>
struct EnumNames<TimestepSpacing> {
  static constexpr std::array<std::pair<TimestepSpacing, std::string_view>, 3> kTable{{
      {TimestepSpacing::kLinspace, "linspace"},
      {TimestepSpacing::kLeading, "leading"},
      {TimestepSpacing::kTrailing, "trailing"},
  }};
};

}  // namespace diffusers
