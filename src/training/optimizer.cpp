#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/training/optimizer.h>

#include <ATen/ATen.h>

#include "core/format.h"

namespace diffusers {
namespace {

void require_at_least_zero(double value, const char* key) {
  require<ConfigError>(std::isfinite(value) && value >= 0, "{} is {}, expected a finite number of at least 0",
                       key, value);
}

void validate(const OptimizerConfig& config) {
  require_at_least_zero(config.lr, "lr");
  require<ConfigError>(config.beta1 >= 0 && config.beta1 < 1, "beta1 is {}, expected 0 to less than 1",
                       config.beta1);
  require<ConfigError>(config.beta2 >= 0 && config.beta2 < 1, "beta2 is {}, expected 0 to less than 1",
                       config.beta2);
  require_at_least_zero(config.eps, "eps");
  require_at_least_zero(config.weight_decay, "weight_decay");
  require_at_least_zero(config.momentum, "momentum");
  require<ConfigError>(
      !config.nesterov || (config.momentum > 0 && config.dampening == 0),
      "nesterov is true, but momentum is {} and dampening is {}: it needs momentum and no dampening",
      config.momentum, config.dampening);
  require<ConfigError>(!config.amsgrad || config.type != OptimizerType::kSGD,
                       "amsgrad is true, but SGD has none");
}

std::vector<ParameterGroup> one_group(std::vector<Tensor> parameters) {
  std::vector<ParameterGroup> groups(1);
  groups[0].params = std::move(parameters);
  return groups;
}

/// The gradients that exist.
std::vector<Tensor> gradients(const std::vector<Tensor>& parameters) {
  std::vector<Tensor> grads;
  for (const Tensor& parameter : parameters)
    if (parameter.grad().defined()) grads.push_back(parameter.grad());
  return grads;
}

using DeviceAndDtype = std::pair<std::string, at::ScalarType>;

/// Fused and foreach kernels want lists of one device and dtype.
std::map<DeviceAndDtype, std::vector<Tensor>> by_device_and_dtype(const std::vector<Tensor>& tensors) {
  std::map<DeviceAndDtype, std::vector<Tensor>> groups;
  for (const Tensor& tensor : tensors)
    groups[{tensor.device().str(), tensor.scalar_type()}].push_back(tensor);
  return groups;
}

}  // namespace

/// What one fused call works on.
struct Optimizer::Batch {
  std::vector<Tensor> params, grads, steps, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, momentum_buffers;
  bool is_first_step = false;
};

Optimizer::Optimizer(std::vector<Tensor> parameters, const OptimizerConfig& config)
    : Optimizer(one_group(std::move(parameters)), config) {}

Optimizer::Optimizer(std::vector<ParameterGroup> groups, const OptimizerConfig& config)
    : config_(config), groups_(std::move(groups)) {
  validate(config_);
  for (const ParameterGroup& group : groups_) {
    if (group.lr) require_at_least_zero(*group.lr, "lr");
    if (group.weight_decay) require_at_least_zero(*group.weight_decay, "weight_decay");
    for (const Tensor& parameter : group.params) {
      require<TensorError>(
          parameter.defined() && parameter.is_leaf() && at::isFloatingType(parameter.scalar_type()),
          "Optimizer: parameter {} is {}; expected a floating leaf tensor", states_.size(),
          describe(parameter));
      states_.emplace_back();
    }
  }
  require<ConfigError>(!states_.empty(), "Optimizer: there are no parameters to train");
}

double Optimizer::lr(std::size_t group) const {
  require(group < groups_.size(), "Optimizer: there is no group {}, only {}", group, groups_.size());
  return groups_[group].lr.value_or(config_.lr);
}

void Optimizer::prepare_state(const Tensor& parameter, ParameterState& state) const {
  if (config_.type == OptimizerType::kSGD) {
    if (config_.momentum != 0 && !state.momentum_buffer.defined())
      state.momentum_buffer = at::zeros_like(parameter);
    return;
  }
  if (state.step.defined()) return;
  state.step = at::zeros({}, parameter.options().dtype(at::kFloat).requires_grad(false));
  state.exp_avg = at::zeros_like(parameter);
  state.exp_avg_sq = at::zeros_like(parameter);
  if (config_.amsgrad) state.max_exp_avg_sq = at::zeros_like(parameter);
}

void Optimizer::step(double lr_factor, const Tensor& found_inf) {
  const at::NoGradGuard no_grad;
  std::size_t number = 0;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const ParameterGroup& group = groups_[g];
    // SGD's kernel initialises the buffers of a whole list at once, so new ones go apart.
    std::map<std::pair<DeviceAndDtype, bool>, Batch> batches;
    for (const Tensor& parameter : group.params) {
      ParameterState& state = states_[number++];
      Tensor grad = parameter.grad();
      if (!grad.defined()) continue;
      if (grad.strides() != parameter.strides()) grad = at::empty_like(parameter).copy_(grad);
      const bool is_first_step = config_.type == OptimizerType::kSGD && !state.momentum_buffer.defined();
      prepare_state(parameter, state);

      Batch& batch = batches[{{parameter.device().str(), parameter.scalar_type()}, is_first_step}];
      batch.is_first_step = is_first_step;
      batch.params.push_back(parameter);
      batch.grads.push_back(grad);
      if (config_.type == OptimizerType::kSGD) {
        if (state.momentum_buffer.defined()) batch.momentum_buffers.push_back(state.momentum_buffer);
        continue;
      }
      batch.steps.push_back(state.step);
      batch.exp_avgs.push_back(state.exp_avg);
      batch.exp_avg_sqs.push_back(state.exp_avg_sq);
      if (config_.amsgrad) batch.max_exp_avg_sqs.push_back(state.max_exp_avg_sq);
    }
    for (const auto& entry : batches)
      update(entry.second, lr(g) * lr_factor, group.weight_decay.value_or(config_.weight_decay), found_inf);
  }
}

void Optimizer::update(const Batch& batch, double lr, double weight_decay, const Tensor& found_inf) const {
  std::optional<Tensor> skip;
  if (found_inf.defined()) {
    require<TensorError>(found_inf.numel() == 1 && found_inf.scalar_type() == at::kFloat,
                         "Optimizer::step: found_inf is {}, expected one float32", describe(found_inf));
    skip = found_inf.to(batch.params.front().device());
  }
  if (config_.type == OptimizerType::kSGD) {
    at::_fused_sgd_(batch.params, batch.grads, batch.momentum_buffers, weight_decay, config_.momentum, lr,
                    config_.dampening, config_.nesterov, /*maximize=*/false, batch.is_first_step, {}, skip);
    return;
  }
  at::_foreach_add_(batch.steps, 1);
  const auto run = [&](auto kernel) {
    kernel(batch.params, batch.grads, batch.exp_avgs, batch.exp_avg_sqs, batch.max_exp_avg_sqs, batch.steps,
           lr, config_.beta1, config_.beta2, weight_decay, config_.eps, config_.amsgrad, /*maximize=*/false,
           std::optional<Tensor>(), skip);
  };
  if (config_.type == OptimizerType::kAdamW) {
    run([](const auto&... arguments) { at::_fused_adamw_(arguments...); });
  } else {
    run([](const auto&... arguments) { at::_fused_adam_(arguments...); });
  }
  // The kernel left the weights alone where it was told to skip; so must the count.
  if (skip) at::_foreach_sub_(batch.steps, std::vector<Tensor>(batch.steps.size(), skip->squeeze()));
}

void Optimizer::zero_grad() {
  for (const ParameterGroup& group : groups_)
    for (const Tensor& parameter : group.params) parameter.mutable_grad() = Tensor();
}

TensorMap Optimizer::state_dict() const {
  TensorMap state;
  for (std::size_t i = 0; i < states_.size(); ++i) {
    const ParameterState& entry = states_[i];
    const auto put = [&](const char* name, const Tensor& tensor) {
      if (tensor.defined()) state.insert(fmt::format("{}.{}", i, name), tensor);
    };
    put("step", entry.step);
    put("exp_avg", entry.exp_avg);
    put("exp_avg_sq", entry.exp_avg_sq);
    put("max_exp_avg_sq", entry.max_exp_avg_sq);
    put("momentum_buffer", entry.momentum_buffer);
  }
  return state;
}

void Optimizer::load_state_dict(const TensorMap& state) {
  const at::NoGradGuard no_grad;
  std::vector<ParameterState> loaded(states_.size());
  std::size_t used = 0;
  std::size_t number = 0;
  for (const ParameterGroup& group : groups_) {
    for (const Tensor& parameter : group.params) {
      const std::string prefix = fmt::format("{}.", number);
      ParameterState& entry = loaded[number++];
      const bool is_sgd = config_.type == OptimizerType::kSGD;
      // A parameter that was never stepped has no entries.
      if (!state.contains(prefix + (is_sgd ? "momentum_buffer" : "step"))) continue;
      prepare_state(parameter, entry);
      const auto take = [&](const char* name, const Tensor& tensor) {
        if (!tensor.defined()) return;
        require<TensorError>(state.contains(prefix + name), "Optimizer: the state lacks \"{}{}\"", prefix,
                             name);
        const Tensor& saved = state.at(prefix + name);
        require<TensorError>(saved.defined() && saved.sizes() == tensor.sizes(),
                             "Optimizer: \"{}{}\" is {}, expected {}", prefix, name, describe(saved),
                             describe(tensor));
        tensor.copy_(saved);
        ++used;
      };
      take("step", entry.step);
      take("exp_avg", entry.exp_avg);
      take("exp_avg_sq", entry.exp_avg_sq);
      take("max_exp_avg_sq", entry.max_exp_avg_sq);
      take("momentum_buffer", entry.momentum_buffer);
    }
  }
  require<TensorError>(used == state.size(),
                       "Optimizer: {} of {} tensors of the state belong to no parameter here: it was "
                       "saved from another model or another kind of optimizer",
                       state.size() - used, state.size());
  states_ = std::move(loaded);
}

Tensor get_total_grad_norm(const std::vector<Tensor>& parameters, double norm_type) {
  const at::NoGradGuard no_grad;
  const std::vector<Tensor> grads = gradients(parameters);
  if (grads.empty()) {
    const at::Device device = parameters.empty() ? at::Device(at::kCPU) : parameters.front().device();
    return at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(device));
  }
  std::vector<Tensor> norms;
  for (const auto& entry : by_device_and_dtype(grads))
    for (const Tensor& norm : at::_foreach_norm(entry.second, norm_type))
      norms.push_back(
          norm.to(grads.front().device(), norm.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  return at::linalg_vector_norm(at::stack(norms), norm_type);
}

Tensor clip_grad_norm_(const std::vector<Tensor>& parameters, double max_norm, double norm_type) {
  const at::NoGradGuard no_grad;
  require<ConfigError>(max_norm >= 0, "max_norm is {}, expected 0 or more", max_norm);
  Tensor total_norm = get_total_grad_norm(parameters, norm_type);
  const Tensor factor = (max_norm / (total_norm + 1e-6)).clamp_max(1.0);
  for (const auto& entry : by_device_and_dtype(gradients(parameters)))
    at::_foreach_mul_(entry.second, factor.to(entry.second.front().device()));
  return total_norm;
}

GradScaler::GradScaler(at::Device device, const GradScalerConfig& config) : config_(config) {
  require<ConfigError>(std::isfinite(config.init_scale) && config.init_scale > 0,
                       "init_scale is {}, expected a finite number above 0", config.init_scale);
  require<ConfigError>(config.growth_factor > 1, "growth_factor is {}, expected more than 1",
                       config.growth_factor);
  require<ConfigError>(config.backoff_factor > 0 && config.backoff_factor < 1,
                       "backoff_factor is {}, expected between 0 and 1", config.backoff_factor);
  require<ConfigError>(config.growth_interval > 0, "growth_interval is {}, expected 1 or more",
                       config.growth_interval);
  scale_ = at::full({1}, config.init_scale, at::TensorOptions().dtype(at::kFloat).device(device));
  growth_tracker_ = at::zeros({1}, at::TensorOptions().dtype(at::kInt).device(device));
}

Tensor GradScaler::scale(const Tensor& loss) const { return loss * scale_.squeeze().to(loss.device()); }

Tensor GradScaler::unscale_(const std::vector<Tensor>& parameters) const {
  const at::NoGradGuard no_grad;
  Tensor found_inf = at::zeros_like(scale_);
  const Tensor inverse = scale_.to(at::kDouble).reciprocal().to(at::kFloat);
  for (auto& entry : by_device_and_dtype(gradients(parameters))) {
    require<ConfigError>(entry.first.second != at::kHalf,
                         "a float16 gradient cannot be unscaled: train float32 weights with "
                         "mixed_precision \"fp16\", not float16 weights");
    Tensor found_here = at::zeros({1}, found_inf.options().device(entry.second.front().device()));
    at::_amp_foreach_non_finite_check_and_unscale_(entry.second, found_here, inverse.to(found_here.device()));
    found_inf = at::maximum(found_inf, found_here.to(found_inf.device()));
  }
  return found_inf;
}

void GradScaler::update(const Tensor& found_inf) {
  const at::NoGradGuard no_grad;
  at::_amp_update_scale_(scale_, growth_tracker_, found_inf, config_.growth_factor, config_.backoff_factor,
                         config_.growth_interval);
}

TensorMap GradScaler::state_dict() const { return {{"scale", scale_}, {"growth_tracker", growth_tracker_}}; }

void GradScaler::load_state_dict(const TensorMap& state) {
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : state_dict()) {
    const Tensor& saved = state.at(name);
    require<TensorError>(saved.sizes() == tensor.sizes(), "GradScaler: \"{}\" is {}, expected {}", name,
                         describe(saved), describe(tensor));
    tensor.copy_(saved);
  }
}

}  // namespace diffusers
