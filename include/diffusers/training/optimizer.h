#pragma once

#include <array>
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

/// The update rule of an `Optimizer`. `kAdam` adds the weight decay to the gradient, as `kSGD` does;
/// `kAdamW`, `kLion` (Chen et al. 2023, arXiv 2302.06675) and `kAdafactor` (Shazeer and Stern 2018, arXiv
/// 1804.04235) shrink the weights.
enum class OptimizerType { kAdamW, kAdam, kSGD, kLion, kAdafactor };

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

/// Options of `torch.optim.AdamW`, `Adam`, `SGD` and `Adafactor` under their names, and Lion's. The defaults
/// are AdamW's; those of another type: `default_optimizer_config`. An option that the type does not know is
/// an error if it was changed; a beta1 of 0.95 passes everywhere, since the flags of the training scripts
/// always have it.
struct OptimizerConfig {
  EnumChoice<OptimizerType> type = OptimizerType::kAdamW;
  /// Adafactor: the largest relative step size; a step t moves a parameter by about min(lr, 1 / sqrt(t))
  /// times its root mean square.
  double lr = 1e-3;
  double beta1 = 0.9;    ///< AdamW, Adam, Lion
  double beta2 = 0.999;  ///< AdamW, Adam, Lion
  double eps = 1e-8;     ///< AdamW, Adam
  double weight_decay = 1e-2;
  bool amsgrad = false;                       ///< AdamW, Adam
  double momentum = 0.0;                      ///< SGD
  double dampening = 0.0;                     ///< SGD
  bool nesterov = false;                      ///< SGD
  double beta2_decay = -0.8;                  ///< Adafactor: step t averages with beta2 = 1 - t^beta2_decay
  std::optional<double> eps1 = std::nullopt;  ///< Adafactor, eps[0]: the least root mean square of a
                                              ///< gradient. None: the machine epsilon of the dtype
  double eps2 = 1e-3;  ///< Adafactor, eps[1]: the least root mean square of a parameter
  double d = 1.0;      ///< Adafactor: the largest root mean square of an update
};

/// The defaults of the class: of `torch.optim`, or of the paper for Lion (lr 1e-4, betas 0.9 and 0.99).
OptimizerConfig default_optimizer_config(OptimizerType type);

/// Parameters that share a learning rate and a weight decay; what is not given is the optimizer's.
struct ParameterGroup {
  std::vector<Tensor> params;
  std::optional<double> lr = std::nullopt;
  std::optional<double> weight_decay = std::nullopt;
  /// What the learning rate, the group's or the optimizer's, is multiplied with.
  double lr_factor = 1.0;
  /// Empty, or one name for each parameter: the keys of the optimizer's state then begin with it, and the
  /// state can be loaded into other groups of the same parameters.
  std::vector<std::string> names = {};
};

class UpdateRule;

/// torch.optim.AdamW, Adam and SGD through LibTorch's fused kernels, one call a step for each group, device
/// and dtype; Lion and torch.optim.Adafactor by tensor operations. No rule makes the host wait for the
/// device. Parameters without a gradient are left alone, as in Python.
class Optimizer {
 public:
  /// @throws ConfigError naming the option and its value; TensorError for a parameter that cannot be trained
  explicit Optimizer(std::vector<Tensor> parameters, const OptimizerConfig& config = {});
  explicit Optimizer(std::vector<ParameterGroup> groups, const OptimizerConfig& config = {});

  /// @param lr_factor what the learning rate of every group is multiplied with (see get_scheduler)
  /// @param found_inf float32, one element, on the parameters' device: where it is 1, the step is skipped
  ///        there, without the host ever reading it
  void step(double lr_factor = 1.0, const Tensor& found_inf = {});
  /// The same with a learning rate factor that the host has not read.
  /// @param lr_factor float64, one element, on the parameters' device
  void step_with_device_factor(const Tensor& lr_factor, const Tensor& found_inf = {});
  /// Drops the gradients (Python: `zero_grad(set_to_none=True)`).
  void zero_grad();

  const std::vector<ParameterGroup>& param_groups() const { return groups_; }
  /// The learning rate of a group, its own factor included, before the factor of `step`.
  double lr(std::size_t group = 0) const;
  const OptimizerConfig& config() const { return config_; }

  /// The moments and step counts of the parameters that were stepped, under torch.optim's names:
  /// "<parameter>.step", ".exp_avg", ".exp_avg_sq", ".max_exp_avg_sq", ".momentum_buffer", ".row_var",
  /// ".col_var", ".variance", where <parameter> is the name that its group gives it, or its number over all
  /// groups. The tensors are the optimizer's own.
  TensorMap state_dict() const;
  /// @throws TensorError naming the entry that is missing, unknown or of another shape
  void load_state_dict(const TensorMap& state);

 private:
  using State = std::vector<std::pair<std::string_view, Tensor>>;
  /// @param device_factor undefined: `lr_factor`
  void step_all(double lr_factor, const Tensor& device_factor, const Tensor& found_inf);

  OptimizerConfig config_;
  std::shared_ptr<const UpdateRule> rule_;
  std::vector<ParameterGroup> groups_;
  std::vector<std::string> keys_;  // by the number of the parameter over all groups
  std::vector<State> states_;      // likewise; empty until the first step
};

}  // namespace diffusers
