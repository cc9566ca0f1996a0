#pragma once

// The optimizer step of AdamW and Adam with this library's kernels: clipping, update and EMA in one pass over
// the parameters; on a CUDA device also the norm of the gradients, and unscaling in the same pass.

#include <map>
#include <memory>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/training/optimizer.h>

namespace diffusers {
inline namespace internal {

/// An average that the step moves.
struct FusedAverage {
  std::vector<Tensor> parameters;
  std::vector<Tensor> averages;  ///< one for each parameter
  double weight = 0.0;           ///< of the parameters: 1 - decay
};

/// Steps the parameters of an Optimizer in its place, with its moments, step counts and learning rates.
class FusedAdamW {
 public:
  /// Returns true if the kernels can step an optimizer: AdamW or Adam without amsgrad, and all parameters
  /// float32 on one device, which is a CPU or, in a library built with CUDA, a CUDA device. The kernels of
  /// the device must be available and enabled.
  static bool can_serve(const Optimizer& optimizer);

  /// @param optimizer one that `can_serve` returns true for, which must outlive this and must not load a
  /// state
  explicit FusedAdamW(const Optimizer& optimizer) : optimizer_(optimizer) {}

  /// Collects the tensors of this step. Call it after the backward pass.
  /// @return false if the optimizer must step itself: before the first step of a parameter, for gradients of
  ///         another dtype or order in memory than the parameter, and if the kernels are disabled by now
  bool begin();
  /// Computes the norm of the gradients on a CUDA device. They do not change.
  /// @param scale float32 `[1]`, by which the gradients are divided; undefined: 1
  /// @param max_norm 0: no clipping
  /// @return float32 `[3]`: norm, 1 if a gradient is not finite, factor on the gradients
  Tensor gradient_norm(const Tensor& scale, double max_norm) const;
  /// Steps the parameters, and lets go of the tensors: their gradients would otherwise take memory until the
  /// next step.
  /// @param lr_factor factor on the learning rates
  /// @param device_factor float64, 0-dim, in its place; undefined: `lr_factor`
  /// @param outcome result of `gradient_norm`; on a CPU a tensor of the same form
  /// @param skip float32 `[1]`; 1: only the average moves
  /// @param average moved too, if each of its parameters is stepped; may be null
  /// @return whether the average was moved
  bool step(double lr_factor, const Tensor& device_factor, const Tensor& outcome, const Tensor& skip,
            const FusedAverage* average);

 private:
  /// Averages by their parameter.
  using Averages = std::map<const void*, Tensor>;

  /// Tensors of one parameter group, in equal order.
  struct Group {
    std::vector<Tensor> params, grads, exp_avgs, exp_avg_sqs, steps;
  };

  /// The optimizer's own tensors of a parameter; undefined before its first step.
  struct State {
    Tensor exp_avg, exp_avg_sq, step;
  };

  /// Collects the tensors of this step. @return false as `begin`
  bool collect();
  /// Returns the averages if each of their parameters is stepped; otherwise none.
  Averages stepped_averages(const FusedAverage* average) const;
  /// Returns the averages of the parameters of a group; undefined for a parameter without one.
  static std::vector<Tensor> averages_of(const Group& group, const Averages& averages);
  double weight_decay(std::size_t group) const;
  void step_on_cpu(double lr_factor, const Tensor& outcome, const Tensor& skip, const Averages& averages,
                   float average_weight) const;
#if defined(DIFFUSERS_WITH_CUDA)
  void step_on_cuda(double lr_factor, const Tensor& device_factor, const Tensor& outcome, const Tensor& skip,
                    const Averages& averages, float average_weight) const;
#endif

  const Optimizer& optimizer_;
  std::vector<State> states_;  // by the number of the parameter over all groups
  std::vector<Group> groups_;
};

}  // namespace internal
}  // namespace diffusers
