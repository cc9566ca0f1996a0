#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/io/model_file.h>
#include <diffusers/training/ema.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/config_json.h"
#include "core/require.h"
#include "io/open_model_file.h"
#include "ops/cpu/adamw.h"

namespace diffusers {

// Not in the anonymous namespace: config_json finds it by its argument.
template <class Visitor>
void visit_fields(EMAModelState& state, Visitor&& visit) {
  visit("decay", state.config.decay);
  visit("min_decay", state.config.min_decay);
  visit("optimization_step", state.optimization_step);
  visit("update_after_step", state.config.update_after_step);
  visit("use_ema_warmup", state.config.use_ema_warmup);
  visit("inv_gamma", state.config.inv_gamma);
  visit("power", state.config.power);
}

namespace {

constexpr const char* kEmaConfigFile = "config.json";

/// Frozen and integral parameters are not averaged.
bool is_averaged(const Tensor& parameter) {
  return parameter.requires_grad() && at::isFloatingType(parameter.scalar_type());
}

bool has_memory_of(const Tensor& shadow, const Tensor& parameter) {
  return shadow.is_alias_of(parameter) && shadow.storage_offset() == parameter.storage_offset();
}

/// Moves the averages towards the values: those that this library's CPU kernel can read with the kernel,
/// which rounds as the optimizer step that averages in the same pass, the others with LibTorch.
void move_averages(const std::vector<Tensor>& averages, const std::vector<Tensor>& values, double weight) {
  std::vector<Tensor> own_averages, own_values, other_averages, other_values;
  for (std::size_t i = 0; i < averages.size(); ++i) {
    const bool is_own = cpu::adamw_available() && cpu::are_dense_alike(averages[i], values[i]);
    (is_own ? own_averages : other_averages).push_back(averages[i]);
    (is_own ? own_values : other_values).push_back(values[i]);
  }
  if (!own_averages.empty()) cpu::run_average(own_values, own_averages, static_cast<float>(weight));
  if (!other_averages.empty()) at::_foreach_lerp_(other_averages, other_values, weight);
}

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
    is_shared_.push_back(!is_averaged(parameter));
    shadow_params_.push_back(is_shared_.back() ? parameter.detach() : parameter.detach().clone());
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
    if (!is_averaged(parameters[i])) {
      if (is_shared_[i]) {
        shadow_params_[i] = parameters[i].detach();
      } else {
        shadow_params_[i].copy_(parameters[i]);
      }
    } else if (is_shared_[i]) {
      // It is trained from now on.
      shadow_params_[i] = parameters[i].detach().clone();
      is_shared_[i] = false;
    } else {
      averages.push_back(shadow_params_[i]);
      values.push_back(
          parameters[i].detach().to(shadow_params_[i].device(), shadow_params_[i].scalar_type()));
    }
  }
  move_averages(averages, values, 1.0 - cur_decay_value_);
}

void EMAModel::copy_to(const std::vector<Tensor>& parameters) const {
  const at::NoGradGuard no_grad;
  require_match(parameters, "copy_to");
  for (std::size_t i = 0; i < parameters.size(); ++i)
    if (!has_memory_of(shadow_params_[i], parameters[i])) parameters[i].detach().copy_(shadow_params_[i]);
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
  for (std::size_t i = 0; i < shadow_params_.size(); ++i) {
    const Tensor shadow = shadow_params_[i];
    const bool is_converted = dtype && at::isFloatingType(shadow.scalar_type());
    shadow_params_[i] = shadow.to(device.value_or(shadow.device()),
                                  is_converted ? *dtype : shadow.scalar_type(), non_blocking);
    is_shared_[i] = is_shared_[i] && shadow_params_[i].is_same(shadow);
  }
}

void EMAModel::pin_memory() {
  require(at::hasCUDA(), "EMAModel::pin_memory: there is no CUDA device to transfer to");
  for (std::size_t i = 0; i < shadow_params_.size(); ++i) {
    if (is_shared_[i]) continue;  // it is the parameter itself, which is not moved
    require(shadow_params_[i].device().is_cpu(), "EMAModel::pin_memory: the average is on {}, expected cpu",
            shadow_params_[i].device().str());
    shadow_params_[i] = shadow_params_[i].pin_memory();
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
  for (std::size_t i = 0; i < shadow_params.size(); ++i) {
    Tensor& shadow = shadow_params_[i];
    if (is_shared_[i]) {
      const Tensor loaded = shadow_params[i].detach().to(shadow.options());
      if (at::equal(loaded, shadow)) continue;
      // Loading an average does not change the parameters.
      shadow = loaded.clone();
      is_shared_[i] = false;
    } else {
      shadow.copy_(shadow_params[i]);
    }
  }
}

void save_ema_state(const EMAModelState& state, const std::filesystem::path& folder) {
  const std::string path = join_path(folder.string(), kEmaConfigFile);
  Json config = parse_json(read_model_file(folder.string(), kEmaConfigFile), path);
  require<FileError>(config.is_object(), "{} is not a JSON object", escaped(path));
  config.update(config_json::fields_to_json(state));
  write_file(dump_json(config), path);
}

EMAModelState load_ema_state(const std::filesystem::path& folder) {
  const std::string path = join_path(folder.string(), kEmaConfigFile);
  EMAModelState state;
  config_json::fields_from_json(parse_json(read_model_file(folder.string(), kEmaConfigFile), path), state,
                                path);
  return state;
}

EMAModel EMAModel::from_pretrained(const std::filesystem::path& folder, const TensorMap& named_parameters) {
  const EMAModelState state = load_ema_state(folder);
  const WeightsReader weights(folder.string());
  std::vector<Tensor> parameters;
  std::vector<Tensor> averages;
  for (const auto& [name, parameter] : named_parameters) {
    require<FileError>(weights.contains(name), "{} lacks the average of \"{}\"", escaped(weights.path()),
                       name);
    parameters.push_back(parameter);
    averages.push_back(weights.get(name));
  }
  EMAModel ema(parameters, state.config);
  ema.load_state(state);
  ema.load_shadow_params(averages);
  return ema;
}

}  // namespace diffusers
