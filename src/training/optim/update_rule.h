#pragma once

// The update rules of an Optimizer: one class for each OptimizerType.

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/training/optimizer.h>

namespace diffusers {
inline namespace internal {

/// LibTorch's fused and foreach kernels take lists of one device and dtype.
using DeviceAndDtype = std::pair<std::string, at::ScalarType>;

inline DeviceAndDtype device_and_dtype(const Tensor& tensor) {
  return {tensor.device().str(), tensor.scalar_type()};
}

/// The optimizer's state of one parameter, under torch.optim's names.
using ParameterState = std::vector<std::pair<std::string_view, Tensor>>;

/// Parameters of one device and dtype, with their gradients and their states.
struct UpdateBatch {
  std::vector<Tensor> params, grads;
  std::vector<const ParameterState*> states;
  bool is_first_step = false;

  /// Returns the tensor with index `index` of each state.
  std::vector<Tensor> column(std::size_t index) const;
};

/// A learning rate as a number on the host, or as a tensor on the parameters' device.
struct LearningRate {
  double value = 0.0;
  Tensor tensor = {};  // float64, 0-dim; undefined: `value`

  /// Applies `f` to it, on the host or on the device.
  template <class F>
  LearningRate map(F f) const {
    return tensor.defined() ? LearningRate{0.0, f(tensor)} : LearningRate{f(value), {}};
  }
};

class UpdateRule {
 public:
  UpdateRule() = default;
  UpdateRule(const UpdateRule&) = delete;
  UpdateRule& operator=(const UpdateRule&) = delete;
  virtual ~UpdateRule() = default;

  /// Returns the state of a parameter before its first step; empty if the rule has no state.
  virtual ParameterState new_state(const Tensor& parameter) const = 0;
  /// Steps all parameters of the batch and updates their states.
  /// @param skip float32, one element, on the device of the batch. If it is 1, nothing changes, even if the
  ///        gradients are non-finite.
  virtual void update(const UpdateBatch& batch, const LearningRate& lr, double weight_decay,
                      const std::optional<Tensor>& skip) const = 0;
};

/// Returns a step count of 0: float32, 0-dim, on the parameter's device.
Tensor new_step_count(const Tensor& parameter);
/// Subtracts `skip` from the step counts, since a skipped step has increased them.
void uncount_skipped(const std::vector<Tensor>& steps, const std::optional<Tensor>& skip);

std::shared_ptr<const UpdateRule> make_adam_rule(const OptimizerConfig& config);
std::shared_ptr<const UpdateRule> make_sgd_rule(const OptimizerConfig& config);
std::shared_ptr<const UpdateRule> make_lion_rule(const OptimizerConfig& config);
std::shared_ptr<const UpdateRule> make_adafactor_rule(const OptimizerConfig& config);

/// Checks the options of an optimizer.
/// @throws ConfigError naming the option and its value, if it is out of range or the type does not have it
void validate_optimizer_config(const OptimizerConfig& config);

}  // namespace internal
}  // namespace diffusers
