#pragma once

// The EMA weights of a training.

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/training/ema.h>
#include <diffusers/training/lit_ema.h>
#include <diffusers/training/training_config.h>

#include "training/distributed/parameter_shards.h"
#include "training/optim/fused_adamw.h"

namespace diffusers {
inline namespace internal {

/// The average over the parameters of all trained models, kept by an EMAModel or by a LitEma, as
/// `TrainingConfig::ema_type` says.
class TrainingAverage {
 public:
  /// @param named_parameters of all trained models
  /// @param shards owners of the parameters: this process averages its own, and needs no memory for the rest.
  ///        Null: it averages all
  /// @throws ConfigError if a LitEma cannot tell two names apart
  TrainingAverage(const TensorMap& named_parameters, const TrainingConfig& config,
                  const ParameterShards* shards = nullptr);

  /// Moves the average towards the parameters.
  void step();
  /// Counts a step for a caller that moves the average itself.
  /// @return the tensors and the weight; nullopt, without counting, for a LitEma and if a parameter that is
  ///         averaged is not float32
  std::optional<FusedAverage> begin_fused_step();
  /// Writes the average into the parameters.
  void copy_to_parameters() const;
  /// Returns one tensor for each parameter, in the order of `named_parameters`. That of a parameter that is
  /// not averaged, or that another process averages, has the memory of the parameter.
  std::vector<Tensor> tensors() const;
  /// Returns the parameters, in the order of `tensors`.
  const std::vector<Tensor>& parameters() const { return parameters_; }
  /// Lets `tensors` return these, the averages of all processes, until `release_whole`.
  /// @param averages one for each parameter
  void hold_whole(std::vector<Tensor> averages) { whole_ = std::move(averages); }
  /// Until `release_whole`, `tensors` returns new tensors for the averages of other processes, which a
  /// checkpoint is read into. They start with the values of the parameters.
  void hold_whole();
  /// Frees the averages of other processes.
  void release_whole() { whole_.clear(); }
  /// Returns the number of calls of `step`; 0 for a LitEma without use_num_updates, which does not count.
  int64_t optimization_step() const;
  void set_optimization_step(int64_t step);

  /// Null if a LitEma keeps the average.
  const EMAModel* ema_model() const { return ema_model_ ? &*ema_model_ : nullptr; }
  /// Null if an EMAModel keeps the average.
  const LitEma* lit_ema() const { return lit_ema_ ? &*lit_ema_ : nullptr; }

 private:
  /// Returns a parameter as the average sees it: one of another process does not require a gradient.
  Tensor seen(std::size_t index) const {
    return is_elsewhere_[index] ? parameters_[index].detach() : parameters_[index];
  }
  std::vector<Tensor> seen_parameters() const;
  TensorMap seen_by_name() const;

  TensorMap named_parameters_;
  std::vector<Tensor> parameters_;
  std::vector<bool> is_elsewhere_;  // another process averages the parameter
  std::vector<Tensor> whole_;       // the averages of all processes; empty: this process has only its own
  std::optional<EMAModel> ema_model_;
  std::optional<LitEma> lit_ema_;
};

}  // namespace internal
}  // namespace diffusers
