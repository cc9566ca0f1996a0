#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_names.h>
#include <diffusers/core/tensor.h>
#include <diffusers/core/tensor_map.h>

#include <ATen/core/Tensor.h>

namespace diffusers {

/// The update rule of an `Optimizer`. `kAdam` adds the weight decay to the gradient, `kAdamW` shrinks the
/// weights.
enum class OptimizerType { kAdamW, kAdam, kSGD };

template <>
struct EnumNames<OptimizerType> {
  static constexpr std::array<std::pair<OptimizerType, std::string_view>, 3> kTable{{
      {OptimizerType::kAdamW, "adamw"},
      {OptimizerType::kAdam, "adam"},
      {OptimizerType::kSGD, "sgd"},
  }};
};

/// Options of `torch.optim.AdamW`, `Adam` and `SGD` under their names; betas, eps and amsgrad are Adam's,
/// momentum, dampening and nesterov SGD's.
struct OptimizerConfig {
  OptimizerType type = OptimizerType::kAdamW;
  double lr = 1e-3;
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 1e-2;
  bool amsgrad = false;
  double momentum = 0.0;
  double dampening = 0.0;
  bool nesterov = false;
};

/// Parameters that share a learning rate and a weight decay; what is not given is the optimizer's.
struct ParameterGroup {
  std::vector<Tensor> params;
  std::optional<double> lr = std::nullopt;
  std::optional<double> weight_decay = std::nullopt;
};

/// torch.optim.AdamW, Adam or SGD through LibTorch's fused kernels: one call a step for each group, device
/// and dtype. Parameters without a gradient are left alone, as in Python.
class Optimizer {
 public:
  /// @throws ConfigError naming the option and its value; TensorError for a parameter that cannot be trained
  explicit Optimizer(std::vector<Tensor> parameters, const OptimizerConfig& config = {});
  explicit Optimizer(std::vector<ParameterGroup> groups, const OptimizerConfig& config = {});

  /// @param lr_factor what the learning rate of every group is multiplied with (see get_scheduler)
  /// @param found_inf float32, one element, on the parameters' device: where it is 1, the step is skipped
  /// there, without
  ///        the host ever reading it
  void step(double lr_factor = 1.0, const Tensor& found_inf = {});
  /// Drops the gradients (Python: `zero_grad(set_to_none=True)`).
  void zero_grad();

  const std::vector<ParameterGroup>& param_groups() const { return groups_; }
  /// The learning rate of a group, before the factor.
  double lr(std::size_t group = 0) const;
  const OptimizerConfig& config() const { return config_; }

  /// The moments and step counts: "<number of the parameter>.exp_avg", ".exp_avg_sq", ".max_exp_avg_sq",
  /// ".step" or
  /// ".momentum_buffer", of the parameters that were stepped. The tensors are the optimizer's own.
  TensorMap state_dict() const;
  /// @throws TensorError naming the entry that is missing, unknown or of another shape
  void load_state_dict(const TensorMap& state);

 private:
  struct ParameterState {
    Tensor step, exp_avg, exp_avg_sq, max_exp_avg_sq, momentum_buffer;
  };
  struct Batch;

  void prepare_state(const Tensor& parameter, ParameterState& state) const;
  void update(const Batch& batch, double lr, double weight_decay, const Tensor& found_inf) const;

  OptimizerConfig config_;
  std::vector<ParameterGroup> groups_;
  std::vector<ParameterState> states_;  // by the number of the parameter over all groups
};

/// Scales the gradients in place so that their common norm is at most `max_norm`
/// (torch.nn.utils.clip_grad_norm_), without the host reading anything.
/// @return the norm before scaling, 0-dim float32; 0 if there are no gradients
Tensor clip_grad_norm_(const std::vector<Tensor>& parameters, double max_norm, double norm_type = 2.0);

/// The common norm of the gradients, 0-dim; what `clip_grad_norm_` returns.
Tensor get_total_grad_norm(const std::vector<Tensor>& parameters, double norm_type = 2.0);

struct GradScalerConfig {
  double init_scale = 65536.0;
  double growth_factor = 2.0;
  double backoff_factor = 0.5;
  int64_t growth_interval = 2000;
};

/// Loss scaling for float16 (torch.amp.GradScaler), all on the device.
class GradScaler {
 public:
  explicit GradScaler(at::Device device, const GradScalerConfig& config = {});

  /// The loss times the scale.
  Tensor scale(const Tensor& loss) const;
  /// Divides the gradients by the scale.
  /// @return float32 `[1]`: 1 if one of them was not finite, else 0
  Tensor unscale_(const std::vector<Tensor>& parameters) const;
  /// Shrinks the scale after an overflow, doubles it after `growth_interval` steps without one.
  void update(const Tensor& found_inf);
  const Tensor& get_scale() const { return scale_; }

  TensorMap state_dict() const;
  void load_state_dict(const TensorMap& state);

 private:
  GradScalerConfig config_;
  Tensor scale_;
  Tensor growth_tracker_;
};

}  // namespace diffusers
