#pragma once

// Optimizer updates within the backward pass (TrainingConfig::fused_backward_pass).

#include <functional>
#include <vector>

#include <diffusers/core/tensor.h>
#include <diffusers/training/task.h>
#include <diffusers/training/training_config.h>

namespace diffusers {
inline namespace internal {

/// Hooks that update each parameter as soon as its gradient is complete and then free the gradient. They
/// stay on the parameters until the scope ends. Hooks that the parameters had before run first.
///
/// A parameter whose gradient is not finite does not change, and neither do those that come after it. The
/// host does not read from the device.
class FusedBackward {
 public:
  /// Updates a parameter, which has its gradient. `found_inf` is float32 with one element: 1 skips the update
  using Update = std::function<void(const Tensor& parameter, const Tensor& found_inf)>;

  /// @param parameters leaf tensors that require a gradient
  /// @param is_nonfinite float32, 0-dim, on the device: 1 skips all updates
  /// @param update called once for each parameter, in the order of the backward pass
  FusedBackward(const std::vector<Tensor>& parameters, const Tensor& is_nonfinite, Update update);
  FusedBackward(const FusedBackward&) = delete;
  FusedBackward& operator=(const FusedBackward&) = delete;
  ~FusedBackward();

  /// Returns 1 if the loss or a gradient is not finite; float32, 0-dim.
  const Tensor& is_nonfinite() const { return is_nonfinite_; }
  /// Returns the norms of the gradients, one for each parameter; undefined without a gradient.
  const std::vector<Tensor>& norms() const { return norms_; }
  /// Returns the norm over all gradients, with the bits of `get_total_grad_norm`.
  Tensor total_norm() const;

 private:
  struct Hook;
  void take(std::size_t index, const Tensor& parameter);

  std::vector<Tensor> parameters_;
  std::vector<Tensor> norms_;
  Tensor is_nonfinite_;
  Update update_;
};

/// Refuses the options of `updates` and `config` that a fused backward pass cannot serve.
/// @param updates of the task
/// @throws ConfigError naming the options and their values
void require_fused_backward(const std::vector<Update>& updates, const TrainingConfig& config);

}  // namespace internal
}  // namespace diffusers
