#pragma once

// The state of a training that its processes divide among each other (`ProcessGroupOptions::zero_stage`).

#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/training/optimizer.h>
#include <diffusers/training/process_group.h>

#include "training/distributed/parameter_shards.h"
#include "training/loop/training_average.h"

namespace diffusers {
inline namespace internal {

/// Divides the trained parameters of a training among its processes. The optimizer steps those of its process
/// alone, as the others have no gradient, and so has no state of the others. All functions that exchange
/// something must be called by all processes, and throw Error if one of them has ended or does not answer
/// within the timeout.
class Sharding {
 public:
  /// @param parameters all trained parameters, the same on all processes
  /// @param group several processes with `zero_stage` 1 or 2
  Sharding(const std::vector<Tensor>& parameters, ProcessGroup group);

  /// Returns the owners of the parameters.
  const ParameterShards& shards() const { return shards_; }
  /// Returns true if only the own parameters have gradients after a backward pass.
  bool divides_gradients() const;

  /// Computes the norm of the gradients of all processes and clips the own ones. The bits are those of
  /// `clip_grad_norm_` with the gradients of all.
  /// @param parameters of an update
  /// @param max_norm 0: no clipping
  /// @return the norm before clipping, 0-dim
  Tensor clip_grad_norm(const std::vector<Tensor>& parameters, double max_norm) const;
  /// Returns 1 if a flag of any process is above 0, else 0.
  /// @param flag floating, of the same shape on all processes
  Tensor any_process(const Tensor& flag) const;
  /// Frees the gradients of parameters that other processes own.
  void drop_other_gradients(const std::vector<Tensor>& parameters) const;
  /// Replaces parameters by those of their owners.
  void share_parameters(const std::vector<Tensor>& parameters) const;

  /// Collects the state of an optimizer on rank 0, tensor by tensor.
  /// @return on rank 0 the state of all parameters: the own tensors of the optimizer, and tensors on the CPU
  ///         for the rest. On the others the own state
  TensorMap gather_state(const Optimizer& optimizer) const;
  /// Gives each process the state of its parameters, which rank 0 has loaded, tensor by tensor.
  void scatter_state(Optimizer& optimizer) const;
  /// Collects the average on rank 0, which holds it until `TrainingAverage::release_whole`.
  void gather_average(TrainingAverage& average) const;
  /// Gives each process the averages of its parameters from those that rank 0 holds. Rank 0 keeps its own.
  void scatter_average(TrainingAverage& average) const;

 private:
  ProcessGroup group_;
  ParameterShards shards_;
};

}  // namespace internal
}  // namespace diffusers
