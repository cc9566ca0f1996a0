#pragma once

// What an Optimizer does with parameters that have gradients, one class for each OptimizerType.

#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/training/optimizer.h>

namespace diffusers {

/// What is remembered of a parameter between steps, under torch.optim's names.
using ParameterState = std::vector<std::pair<std::string_view, Tensor>>;

/// Parameters of one device and dtype, their gradients and what is remembered of them.
struct UpdateBatch {
  std::vector<Tensor> params, grads;
  std::vector<const ParameterState*> states;
  bool is_first_step = false;

  /// The tensor number `index` of each state.
  std::vector<Tensor> column(std::size_t index) const;
};

/// A learning rate as a number on the host, or as a tensor on the parameters' device.
struct LearningRate {
  double value = 0.0;
  Tensor tensor = {};  // float64, 0-dim; undefined: `value`

  /// `f` of it, on the host or on the device.
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

  /// The state of a parameter before its first step; empty if the rule remembers nothing.
  virtual ParameterState new_state(const Tensor& parameter) const = 0;
  /// One step of all parameters of the batch, states included.
  /// @param skip float32, one element, on the device of the batch: where it is 1, nothing changes, whatever
  ///        the gradients are
  virtual void update(const UpdateBatch& batch, const LearningRate& lr, double weight_decay,
                      const std::optional<Tensor>& skip) const = 0;
};

/// A count of steps: float32, 0-dim, on the parameter's device.
Tensor new_step_count(const Tensor& parameter);
/// Takes back the step that was counted, where it was skipped.
void uncount_skipped(const std::vector<Tensor>& steps, const std::optional<Tensor>& skip);

std::shared_ptr<const UpdateRule> make_adam_rule(const OptimizerConfig& config);
std::shared_ptr<const UpdateRule> make_sgd_rule(const OptimizerConfig& config);
std::shared_ptr<const UpdateRule> make_lion_rule(const OptimizerConfig& config);
std::shared_ptr<const UpdateRule> make_adafactor_rule(const OptimizerConfig& config);

/// @throws ConfigError naming an option without sense for the type, and its value
void validate_optimizer_config(const OptimizerConfig& config);

}  // namespace diffusers
