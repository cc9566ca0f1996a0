#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>
#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/training/grad_scaler.h>
#include <diffusers/training/gradient_clipping.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The update rule of an `Optimizer`.
///
/// | name        | source                                                    | weight decay           |
/// |-------------|-----------------------------------------------------------|------------------------|
/// | `adamw`     | `torch.optim.AdamW`                                       | shrinks the weights    |
/// | `adam`      | `torch.optim.Adam`                                        | added to the gradients |
/// | `sgd`       | `torch.optim.SGD`                                         | added to the gradients |
/// | `lion`      | Chen et al. 2023, arXiv 2302.06675                        | shrinks the weights    |
/// | `adafactor` | `torch.optim.Adafactor`; Shazeer and Stern 2018, arXiv 1804.04235 | shrinks the weights |
enum class OptimizerType { kAdamW, kAdam, kSGD, kLion, kAdafactor };

/// The Python strings of `OptimizerType`.
template <>
struct EnumNames<OptimizerType> {
  static constexpr std::string_view kKey = "optimizer";
  static constexpr std::array<std::pair<OptimizerType, std::string_view>, 5> kTable{{
      {OptimizerType::kAdamW, "adamw"},
      {OptimizerType::kAdam, "adam"},
      {OptimizerType::kSGD, "sgd"},
      {OptimizerType::kLion, "lion"},
      {OptimizerType::kAdafactor, "adafactor"},
  }};
};

/// Options of `torch.optim.AdamW`, `Adam`, `SGD` and `Adafactor` under their Python names, and of Lion.
///
/// The defaults are those of AdamW; `default_optimizer_config` returns those of another type. Optimizer
/// throws ConfigError for an option that was changed from its default and that the type does not have.
struct OptimizerConfig {
  EnumChoice<OptimizerType> type = OptimizerType::kAdamW;  ///< update rule
  /// Learning rate, 0 or more. Adafactor: the largest relative step size; step t moves a parameter by about
  /// min(lr, 1 / sqrt(t)) times its root mean square.
  double lr = 1e-3;
  double beta1 = 0.9;          ///< AdamW, Adam, Lion: decay of the first moment, in [0, 1)
  double beta2 = 0.999;        ///< AdamW, Adam: decay of the second moment, in [0, 1). Lion: of the momentum
  double eps = 1e-8;           ///< AdamW, Adam: number added to the root of the second moment, 0 or more
  double weight_decay = 1e-2;  ///< all types: weight decay, 0 or more. 0 disables it
  bool amsgrad = false;        ///< AdamW, Adam: divides by the largest second moment so far
  double momentum = 0.0;       ///< SGD: momentum, 0 or more. 0 disables it
  double dampening = 0.0;      ///< SGD: the momentum buffer takes (1 - dampening) times the gradient. Finite
  bool nesterov = false;       ///< SGD: Nesterov momentum; needs momentum above 0 and dampening 0
  double beta2_decay = -0.8;   ///< Adafactor: step t averages with beta2 = 1 - t^beta2_decay; 0 or less
  /// Adafactor, `eps[0]`: lower bound of the root mean square of a gradient, 0 or more. None: the machine
  /// epsilon of the dtype.
  std::optional<double> eps1 = std::nullopt;
  double eps2 = 1e-3;  ///< Adafactor, `eps[1]`: lower bound of the root mean square of a parameter, 0 or more
  double d = 1.0;      ///< Adafactor: upper bound of the root mean square of an update, 1 or more
};

/// Returns the default options of an optimizer, those of `torch.optim`. Lion has the options of its paper.
/// @param type the optimizer
/// @return weight decay 1e-2 for AdamW, 0 for the others; lr 1e-3, but 1e-4 for Lion and 1e-2 for Adafactor;
///         beta2 0.999, but 0.99 for Lion
OptimizerConfig default_optimizer_config(OptimizerType type);

/// Parameters that share a learning rate and a weight decay.
struct ParameterGroup {
  std::vector<Tensor> params;                         ///< floating leaf tensors
  std::optional<double> lr = std::nullopt;            ///< learning rate. None: the optimizer's
  std::optional<double> weight_decay = std::nullopt;  ///< weight decay. None: the optimizer's
  double lr_factor = 1.0;                             ///< factor on the learning rate, 0 or more
  /// One name for each parameter, or empty. The keys of the optimizer's state begin with the name, so the
  /// state can be loaded into an optimizer that groups the same parameters differently.
  std::vector<std::string> names = {};
};

inline namespace internal {
class UpdateRule;
}  // namespace internal

/// Optimizer of a training loop: `torch.optim.AdamW`, `Adam`, `SGD`, `Adafactor`, or Lion.
///
/// AdamW, Adam and SGD use LibTorch's fused kernels, with one call for each group, device and dtype. The host
/// does not wait for the device. As in Python, parameters without a gradient do not change.
///
/// @code
/// Optimizer optimizer(unet->parameters(), {.lr = 1e-4});
/// auto lr_scheduler = get_scheduler("linear", optimizer, {.num_warmup_steps = 9, .num_training_steps = 99});
/// loss.backward();
/// clip_grad_norm_(unet->parameters(), 1.0);
/// optimizer.step();
/// lr_scheduler.step();
/// optimizer.zero_grad();
/// @endcode
class Optimizer {
 public:
  /// Creates an optimizer of one parameter group.
  /// @param parameters floating leaf tensors, each given once
  /// @param config type and options
  /// @throws ConfigError naming an invalid option and its value, and for no parameters
  /// @throws TensorError for a parameter that cannot be trained or that is given twice
  explicit Optimizer(std::vector<Tensor> parameters, const OptimizerConfig& config = {});
  /// Creates an optimizer of several parameter groups.
  /// @param groups parameters, learning rates and weight decays (see `make_parameter_groups`)
  /// @param config type and options; a group without a learning rate or a weight decay has those of the
  /// config
  /// @throws ConfigError naming an invalid option and its value, for no parameters, and for equal names
  /// @throws TensorError for a parameter that cannot be trained or that is given twice
  explicit Optimizer(std::vector<ParameterGroup> groups, const OptimizerConfig& config = {});

  /// Updates the parameters that have a gradient.
  /// @param lr_factor factor on the learning rate of every group, such as the result of an `LRSchedule`
  /// @param found_inf float32, one element, on the parameters' device: 1 skips the step. The host does not
  /// read
  ///        it. Undefined: the step is not skipped
  /// @throws TensorError if `found_inf` is not one float32 number
  void step(double lr_factor = 1.0, const Tensor& found_inf = {});
  /// Updates the parameters with a learning rate factor on the device, which the host does not read.
  /// @param lr_factor float64, one element, on the parameters' device
  /// @param found_inf as in `step`
  /// @throws TensorError if `lr_factor` is not one float64 number or `found_inf` not one float32 number
  void step_with_device_factor(const Tensor& lr_factor, const Tensor& found_inf = {});
  /// Updates one parameter, as `step` does for all, if it has a gradient. Hooks that run when a gradient is
  /// complete can so update the parameter and free its gradient within the backward pass.
  /// @param parameter one of the optimizer's parameters
  /// @param lr_factor factor on the learning rate
  /// @param found_inf as in `step`
  /// @throws TensorError for a parameter of another optimizer, and if `found_inf` is not one float32 number
  void step_parameter(const Tensor& parameter, double lr_factor = 1.0, const Tensor& found_inf = {});
  /// Updates one parameter with a learning rate factor on the device, which the host does not read.
  /// @param parameter one of the optimizer's parameters
  /// @param lr_factor float64, one element, on the parameters' device
  /// @param found_inf as in `step`
  /// @throws TensorError for a parameter of another optimizer, if `lr_factor` is not one float64 number or
  ///         `found_inf` not one float32 number
  void step_parameter_with_device_factor(const Tensor& parameter, const Tensor& lr_factor,
                                         const Tensor& found_inf = {});
  /// Removes the gradients, or sets them to zero.
  /// @param set_to_none true removes the gradients, which saves memory; false fills them with zeros
  void zero_grad(bool set_to_none = true);

  /// Returns the parameter groups.
  const std::vector<ParameterGroup>& param_groups() const { return groups_; }
  /// Returns the learning rate of a group: its `lr` times its `lr_factor`, without the factor of `step`.
  /// @param group index of the group
  /// @throws Error if there is no such group
  double lr(std::size_t group = 0) const;
  /// Sets the learning rate of all groups.
  /// @param lr learning rate, 0 or more. Replaces `lr` and `lr_factor` of the groups
  /// @throws ConfigError for a learning rate that is negative or not finite
  void set_lr(double lr);
  /// Sets the learning rate of one group (Python: `optimizer.param_groups[group]["lr"] = lr`).
  /// @param lr learning rate, 0 or more. Replaces `lr` and `lr_factor` of the group
  /// @param group index of the group
  /// @throws ConfigError for a learning rate that is negative or not finite; Error if there is no such group
  void set_lr(double lr, std::size_t group);
  /// Returns the type and the options.
  const OptimizerConfig& config() const { return config_; }

  /// Returns the moments and step counts of the parameters that were updated.
  ///
  /// The keys are "PARAMETER.NAME". PARAMETER is the name of the parameter in its group, or its index over
  /// all groups. NAME is that of `torch.optim`: step, exp_avg, exp_avg_sq, max_exp_avg_sq, momentum_buffer,
  /// row_var, col_var or variance. Learning rates are not part of the state.
  /// @return the optimizer's own tensors, not copies
  TensorMap state_dict() const;
  /// Copies a state into the optimizer.
  /// @param state state of an optimizer of the same type and parameters, on any device
  /// @throws TensorError naming the entry that is missing, unknown or of another shape
  void load_state_dict(const TensorMap& state);

 private:
  using State = std::vector<std::pair<std::string_view, Tensor>>;
  /// @param only the parameter to update; undefined: all
  /// @param device_factor undefined: `lr_factor`
  void step_some(const Tensor& only, double lr_factor, const Tensor& device_factor, const Tensor& found_inf);
  void require_own_parameter(const Tensor& parameter) const;

  OptimizerConfig config_;
  std::shared_ptr<const UpdateRule> rule_;
  std::vector<ParameterGroup> groups_;
  std::vector<std::string> keys_;  // by the number of the parameter over all groups
  std::vector<State> states_;      // likewise; empty until the first step
};

}  // namespace diffusers
