#include <algorithm>
#include <cmath>
#include <vector>

#include <diffusers/training/ema.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/require.h"

namespace diffusers {
namespace {

void validate(const EMAModelConfig& config) {
  require<ConfigError>(config.decay >= 0 && config.decay <= 1, "decay is {}, expected 0 to 1", config.decay);
  require<ConfigError>(config.min_decay >= 0 && config.min_decay <= 1, "min_decay is {}, expected 0 to 1",
                       config.min_decay);
  require<ConfigError>(config.update_after_step >= 0, "update_after_step is {}, expected 0 or more",
                       config.update_after_step);
  require<ConfigError>(std::isfinite(config.inv_gamma) && config.inv_gamma > 0,
                       "inv_gamma is {}, expected a finite number above 0", config.inv_gamma);
  require<ConfigError>(std::isfinite(config.power), "power is {}, expected a finite number", config.power);
}

}  // namespace

EMAModel::EMAModel(const std::vector<Tensor>& parameters, const EMAModelConfig& config) : config_(config) {
  validate(config_);
  shadow_params_.reserve(parameters.size());
  for (const Tensor& parameter : parameters) {
    require<TensorError>(parameter.defined(), "EMAModel: parameter {} of {} is undefined",
                         shadow_params_.size(), parameters.size());
    shadow_params_.push_back(parameter.detach().clone());
  }
}

void EMAModel::require_match(const std::vector<Tensor>& parameters, const char* where) const {
  require<TensorError>(parameters.size() == shadow_params_.size(),
                       "EMAModel::{}: {} parameters were given, {} are averaged", where, parameters.size(),
                       shadow_params_.size());
  for (std::size_t i = 0; i < parameters.size(); ++i)
    require<TensorError>(parameters[i].defined() && parameters[i].sizes() == shadow_params_[i].sizes(),
                         "EMAModel::{}: parameter {} is {}, its average is {}", where, i,
                         describe(parameters[i]), describe(shadow_params_[i]));
}

double EMAModel::get_decay(int64_t optimization_step) const {
  const auto step =
      static_cast<double>(std::max<int64_t>(0, optimization_step - config_.update_after_step - 1));
  if (step <= 0) return 0.0;
  const double decay = config_.use_ema_warmup ? 1 - std::pow(1 + step / config_.inv_gamma, -config_.power)
                                              : (1 + step) / (10 + step);
  return std::max(std::min(decay, config_.decay), config_.min_decay);
}

void EMAModel::step(const std::vector<Tensor>& parameters) {
  const at::NoGradGuard no_grad;
  require_match(parameters, "step");
  ++optimization_step_;
  cur_decay_value_ = get_decay(optimization_step_);

  std::vector<Tensor> averages;
  std::vector<Tensor> values;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    // A frozen or integral parameter has no history worth averaging.
    if (!parameters[i].requires_grad() || !at::isFloatingType(parameters[i].scalar_type())) {
      shadow_params_[i].copy_(parameters[i]);
    } else {
      averages.push_back(shadow_params_[i]);
      values.push_back(
          parameters[i].detach().to(shadow_params_[i].device(), shadow_params_[i].scalar_type()));
    }
  }
  if (!averages.empty()) at::_foreach_lerp_(averages, values, 1.0 - cur_decay_value_);
}

void EMAModel::copy_to(const std::vector<Tensor>& parameters) const {
  const at::NoGradGuard no_grad;
  require_match(parameters, "copy_to");
  for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].detach().copy_(shadow_params_[i]);
}

void EMAModel::store(const std::vector<Tensor>& parameters) {
  const at::NoGradGuard no_grad;
  require_match(parameters, "store");
  stored_params_.clear();
  // On the CPU, as in Python: the copy must not double the memory of the device.
  for (const Tensor& parameter : parameters)
    stored_params_.push_back(parameter.detach().to(at::kCPU, false, true));
}

void EMAModel::restore(const std::vector<Tensor>& parameters) {
  const at::NoGradGuard no_grad;
  require_match(parameters, "restore");
  require(stored_params_.size() == parameters.size(),
          "EMAModel::restore: there are no weights kept by store()");
  for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].detach().copy_(stored_params_[i]);
  stored_params_.clear();
}

void EMAModel::to(std::optional<at::Device> device, std::optional<at::ScalarType> dtype, bool non_blocking) {
  for (Tensor& shadow : shadow_params_) {
    const bool is_converted = dtype && at::isFloatingType(shadow.scalar_type());
    shadow = shadow.to(device.value_or(shadow.device()), is_converted ? *dtype : shadow.scalar_type(),
                       non_blocking);
  }
}

void EMAModel::pin_memory() {
  require(at::hasCUDA(), "EMAModel::pin_memory: there is no CUDA device to transfer to");
  for (Tensor& shadow : shadow_params_) {
    require(shadow.device().is_cpu(), "EMAModel::pin_memory: the average lies on {}, expected cpu",
            shadow.device().str());
    shadow = shadow.pin_memory();
  }
}

void EMAModel::load_state(const EMAModelState& state) {
  validate(state.config);
  require<ConfigError>(state.optimization_step >= 0, "optimization_step is {}, expected 0 or more",
                       state.optimization_step);
  config_ = state.config;
  optimization_step_ = state.optimization_step;
  cur_decay_value_ = get_decay(optimization_step_);
}

void EMAModel::load_shadow_params(const std::vector<Tensor>& shadow_params) {
  const at::NoGradGuard no_grad;
  require_match(shadow_params, "load_shadow_params");
  for (std::size_t i = 0; i < shadow_params.size(); ++i) shadow_params_[i].copy_(shadow_params[i]);
}

}  // namespace diffusers
