#include <cmath>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/training/optimizer.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/require.h"
#include "training/optim/update_rule.h"

namespace diffusers {
namespace {

std::vector<ParameterGroup> one_group(std::vector<Tensor> parameters) {
  std::vector<ParameterGroup> groups(1);
  groups[0].params = std::move(parameters);
  return groups;
}

std::shared_ptr<const UpdateRule> make_update_rule(const OptimizerConfig& config) {
  validate_optimizer_config(config);
  switch (config.type) {
    case OptimizerType::kSGD:
      return make_sgd_rule(config);
    case OptimizerType::kLion:
      return make_lion_rule(config);
    case OptimizerType::kAdafactor:
      return make_adafactor_rule(config);
    default:
      return make_adam_rule(config);
  }
}

void require_group_option(double value, const char* key) {
  require<ConfigError>(std::isfinite(value) && value >= 0,
                       "{} of a parameter group is {}, expected a finite number of at least 0", key, value);
}

void validate(const ParameterGroup& group) {
  require_group_option(group.lr.value_or(0), "lr");
  require_group_option(group.lr_factor, "lr_factor");
  require_group_option(group.weight_decay.value_or(0), "weight_decay");
  require<ConfigError>(group.names.empty() || group.names.size() == group.params.size(),
                       "a parameter group has {} names for {} parameters", group.names.size(),
                       group.params.size());
}

void require_device_factor(const Tensor& lr_factor) {
  require<TensorError>(
      lr_factor.defined() && lr_factor.numel() == 1 && lr_factor.scalar_type() == at::kDouble,
      "Optimizer::step_with_device_factor: lr_factor is {}, expected one float64", describe(lr_factor));
}

}  // namespace

Optimizer::Optimizer(std::vector<Tensor> parameters, const OptimizerConfig& config)
    : Optimizer(one_group(std::move(parameters)), config) {}

Optimizer::Optimizer(std::vector<ParameterGroup> groups, const OptimizerConfig& config)
    : config_(config), rule_(make_update_rule(config)), groups_(std::move(groups)) {
  std::set<const void*> seen;
  for (const ParameterGroup& group : groups_) {
    validate(group);
    for (std::size_t i = 0; i < group.params.size(); ++i) {
      const Tensor& parameter = group.params[i];
      require<TensorError>(
          parameter.defined() && parameter.is_leaf() && at::isFloatingType(parameter.scalar_type()),
          "Optimizer: parameter {} is {}; expected a floating leaf tensor", keys_.size(),
          describe(parameter));
      require<TensorError>(seen.insert(parameter.unsafeGetTensorImpl()).second,
                           "Optimizer: parameter {}, {}, is given twice", keys_.size(), describe(parameter));
      keys_.push_back(group.names.empty() ? std::to_string(keys_.size()) : group.names[i]);
    }
  }
  require<ConfigError>(!keys_.empty(), "Optimizer: there are no parameters to train");
  std::set<std::string> names;
  for (const std::string& key : keys_)
    require<ConfigError>(names.insert(key).second, "Optimizer: two parameters have the name \"{}\"", key);
  states_.resize(keys_.size());
}

double Optimizer::lr(std::size_t group) const {
  require(group < groups_.size(), "Optimizer: there is no group {}, only {}", group, groups_.size());
  return groups_[group].lr.value_or(config_.lr) * groups_[group].lr_factor;
}

void Optimizer::set_lr(double lr) {
  for (std::size_t group = 0; group < groups_.size(); ++group) set_lr(lr, group);
}

void Optimizer::set_lr(double lr, std::size_t group) {
  require(group < groups_.size(), "Optimizer: there is no group {}, only {}", group, groups_.size());
  require_group_option(lr, "lr");
  groups_[group].lr = lr;
  groups_[group].lr_factor = 1.0;
}

void Optimizer::step(double lr_factor, const Tensor& found_inf) { step_some({}, lr_factor, {}, found_inf); }

void Optimizer::step_with_device_factor(const Tensor& lr_factor, const Tensor& found_inf) {
  require_device_factor(lr_factor);
  step_some({}, 1.0, lr_factor.squeeze(), found_inf);
}

void Optimizer::step_parameter(const Tensor& parameter, double lr_factor, const Tensor& found_inf) {
  require_own_parameter(parameter);
  step_some(parameter, lr_factor, {}, found_inf);
}

void Optimizer::step_parameter_with_device_factor(const Tensor& parameter, const Tensor& lr_factor,
                                                  const Tensor& found_inf) {
  require_own_parameter(parameter);
  require_device_factor(lr_factor);
  step_some(parameter, 1.0, lr_factor.squeeze(), found_inf);
}

void Optimizer::require_own_parameter(const Tensor& parameter) const {
  for (const ParameterGroup& group : groups_)
    for (const Tensor& own : group.params)
      if (own.is_same(parameter)) return;
  fail<TensorError>(
      "Optimizer::step_parameter: the parameter is {}; expected one of the optimizer's {} parameters",
      describe(parameter), keys_.size());
}

void Optimizer::step_some(const Tensor& only, double lr_factor, const Tensor& device_factor,
                          const Tensor& found_inf) {
  const at::NoGradGuard no_grad;
  require<TensorError>(
      !found_inf.defined() || (found_inf.numel() == 1 && found_inf.scalar_type() == at::kFloat),
      "Optimizer::step: found_inf is {}, expected one float32", describe(found_inf));
  std::size_t number = 0;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const ParameterGroup& group = groups_[g];
    // SGD's kernel initialises the buffers of a whole list at once. New parameters therefore need another
    // list.
    std::map<std::pair<DeviceAndDtype, bool>, UpdateBatch> batches;
    for (const Tensor& parameter : group.params) {
      State& state = states_[number++];
      if (only.defined() && !parameter.is_same(only)) continue;
      Tensor grad = parameter.grad();
      if (!grad.defined()) continue;
      if (grad.strides() != parameter.strides()) grad = at::empty_like(parameter).copy_(grad);
      const bool is_first_step = state.empty();
      if (is_first_step) state = rule_->new_state(parameter);

      UpdateBatch& batch = batches[{device_and_dtype(parameter), is_first_step}];
      batch.is_first_step = is_first_step;
      batch.params.push_back(parameter);
      batch.grads.push_back(grad);
      batch.states.push_back(&state);
    }
    for (const auto& entry : batches) {
      const UpdateBatch& batch = entry.second;
      std::optional<Tensor> skip;
      if (found_inf.defined()) skip = found_inf.to(batch.params.front().device());
      LearningRate rate{.value = lr(g) * lr_factor};
      if (device_factor.defined()) rate.tensor = (device_factor * lr(g)).to(batch.params.front().device());
      rule_->update(batch, rate, group.weight_decay.value_or(config_.weight_decay), skip);
    }
  }
}

void Optimizer::zero_grad(bool set_to_none) {
  const at::NoGradGuard no_grad;
  for (const ParameterGroup& group : groups_)
    for (const Tensor& parameter : group.params) {
      Tensor& grad = parameter.mutable_grad();
      if (!grad.defined()) continue;
      if (set_to_none) {
        grad = Tensor();
      } else {
        grad.detach_().zero_();
      }
    }
}

TensorMap Optimizer::state_dict() const {
  TensorMap state;
  for (std::size_t i = 0; i < states_.size(); ++i)
    for (const auto& [name, tensor] : states_[i]) state.insert(fmt::format("{}.{}", keys_[i], name), tensor);
  return state;
}

void Optimizer::load_state_dict(const TensorMap& state) {
  const at::NoGradGuard no_grad;
  std::vector<State> loaded(states_.size());
  std::size_t used = 0;
  std::size_t number = 0;
  for (const ParameterGroup& group : groups_) {
    for (const Tensor& parameter : group.params) {
      const std::string& key = keys_[number];
      State entries = rule_->new_state(parameter);
      State& target = loaded[number++];
      // A parameter that was never updated has no entries.
      if (entries.empty() || !state.contains(fmt::format("{}.{}", key, entries.front().first))) continue;
      for (const auto& [name, tensor] : entries) {
        const std::string full_name = fmt::format("{}.{}", key, name);
        require<TensorError>(state.contains(full_name), "Optimizer: the state lacks \"{}\"", full_name);
        const Tensor& saved = state.at(full_name);
        require<TensorError>(saved.defined() && saved.sizes() == tensor.sizes(),
                             "Optimizer: \"{}\" is {}, expected {}", full_name, describe(saved),
                             describe(tensor));
        tensor.copy_(saved);
        ++used;
      }
      target = std::move(entries);
    }
  }
  require<TensorError>(used == state.size(),
                       "Optimizer: {} of {} tensors of the state belong to no parameter here: it was "
                       "saved from another model or another kind of optimizer",
                       state.size() - used, state.size());
  states_ = std::move(loaded);
}

}  // namespace diffusers
