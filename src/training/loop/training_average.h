#pragma once

// The EMA weights of a training.

#include <cstdint>
#include <optional>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/training/ema.h>
#include <diffusers/training/lit_ema.h>
#include <diffusers/training/training_config.h>

#include "training/optim/fused_adamw.h"

namespace diffusers {
inline namespace internal {

/// The average over the parameters of all trained models, kept by an EMAModel or by a LitEma, as
/// `TrainingConfig::ema_type` says.
class TrainingAverage {
 public:
  /// @param named_parameters of all trained models
  /// @throws ConfigError if a LitEma cannot tell two names apart
  TrainingAverage(const TensorMap& named_parameters, const TrainingConfig& config);

  /// Moves the average towards the parameters.
  void step();
  /// Counts a step for a caller that moves the average itself.
  /// @return the tensors and the weight; nullopt, without counting, for a LitEma and if a parameter that is
  ///         averaged is not float32
  std::optional<FusedAverage> begin_fused_step();
  /// Writes the average into the parameters.
  void copy_to_parameters() const;
  /// Returns one tensor for each parameter, in the order of `named_parameters`. That of a parameter that is
  /// not averaged has the memory of the parameter.
  std::vector<Tensor> tensors() const;
  /// Returns the number of calls of `step`; 0 for a LitEma without use_num_updates, which does not count.
  int64_t optimization_step() const;
  void set_optimization_step(int64_t step);

  /// Null if a LitEma keeps the average.
  const EMAModel* ema_model() const { return ema_model_ ? &*ema_model_ : nullptr; }
  /// Null if an EMAModel keeps the average.
  const LitEma* lit_ema() const { return lit_ema_ ? &*lit_ema_ : nullptr; }

 private:
  TensorMap named_parameters_;
  std::vector<Tensor> parameters_;
  std::optional<EMAModel> ema_model_;
  std::optional<LitEma> lit_ema_;
};

}  // namespace internal
}  // namespace diffusers
