#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include <diffusers/training/lit_ema.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/require.h"

namespace diffusers {
namespace {

const Tensor& find_parameter(const TensorMap& parameters, const std::string& name, const Tensor& average) {
  require<TensorError>(parameters.contains(name), "LitEma: the averaged parameter \"{}\" is missing", name);
  const Tensor& parameter = parameters.at(name);
  require<TensorError>(parameter.defined() && parameter.sizes() == average.sizes(),
                       "LitEma: \"{}\" is {}, its average is {}", name, describe(parameter),
                       describe(average));
  return parameter;
}

const Tensor& find_entry(const TensorMap& checkpoint, const std::string& key) {
  require<TensorError>(checkpoint.contains(key), "LitEma: the checkpoint lacks \"{}\"", key);
  return checkpoint.at(key);
}

Tensor number(const TensorMap& checkpoint, const std::string& key) {
  const Tensor& tensor = find_entry(checkpoint, key);
  require<TensorError>(tensor.numel() == 1, "LitEma: \"{}\" is {}, expected one number", key,
                       describe(tensor));
  return tensor.to(at::kCPU);
}

void require_decay(double decay) {
  require<ConfigError>(decay >= 0 && decay <= 1, "decay is {}, expected 0 to 1", decay);
}

}  // namespace

std::string lit_ema_name(std::string_view parameter_name) {
  std::string name(parameter_name);
  std::erase(name, '.');
  return name;
}

LitEma::LitEma(const TensorMap& named_parameters, const LitEmaConfig& config)
    : decay_(config.decay), num_updates_(config.use_num_updates ? 0 : -1) {
  require_decay(decay_);
  std::set<std::string> short_names;
  for (const auto& [name, parameter] : named_parameters) {
    if (!parameter.requires_grad()) continue;
    require<ConfigError>(short_names.insert(lit_ema_name(name)).second,
                         "\"{}\" without its dots is the name of another parameter: LitEma cannot tell them "
                         "apart",
                         name);
    shadow_params_.insert(name, parameter.detach().clone());
  }
}

double LitEma::get_decay(int64_t num_updates) const {
  const auto decay = static_cast<float>(decay_);
  if (num_updates < 0) return decay;
  return std::min(decay, static_cast<float>(1 + num_updates) / static_cast<float>(10 + num_updates));
}

void LitEma::set_num_updates(int64_t num_updates) {
  require<ConfigError>(num_updates >= 0, "num_updates is {}, expected 0 or more", num_updates);
  if (num_updates_ >= 0) num_updates_ = num_updates;
}

void LitEma::step(const TensorMap& named_parameters) {
  const at::NoGradGuard no_grad;
  std::vector<Tensor> averages;
  std::vector<Tensor> values;
  for (const auto& [name, average] : shadow_params_) {
    const Tensor& parameter = find_parameter(named_parameters, name, average);
    require<TensorError>(parameter.requires_grad(), "LitEma: \"{}\" is averaged, but no longer trained",
                         name);
    averages.push_back(average);
    values.push_back(parameter.detach().to(average.device(), average.scalar_type()));
  }
  for (const auto& [name, parameter] : named_parameters)
    require<TensorError>(!parameter.requires_grad() || shadow_params_.contains(name),
                         "LitEma: \"{}\" is trained, but was not when the average was made", name);
  if (num_updates_ >= 0) ++num_updates_;
  const float one_minus_decay = 1.0F - static_cast<float>(get_decay(num_updates_));
  if (!averages.empty()) at::_foreach_lerp_(averages, values, one_minus_decay);
}

void LitEma::copy_to(const TensorMap& named_parameters) const {
  const at::NoGradGuard no_grad;
  for (const auto& [name, average] : shadow_params_)
    find_parameter(named_parameters, name, average).detach().copy_(average);
}

void LitEma::store(const TensorMap& named_parameters) {
  const at::NoGradGuard no_grad;
  stored_params_ = {};
  for (const auto& [name, parameter] : named_parameters)
    stored_params_.insert(name, parameter.detach().to(at::kCPU, false, true));
}

void LitEma::restore(const TensorMap& named_parameters) {
  const at::NoGradGuard no_grad;
  require(!stored_params_.empty(), "LitEma::restore: there are no weights kept by store()");
  for (const auto& [name, stored] : stored_params_)
    find_parameter(named_parameters, name, stored).detach().copy_(stored);
  stored_params_ = {};
}

TensorMap LitEma::state_dict(std::string_view prefix) const {
  TensorMap state;
  const std::string start(prefix);
  state.insert(start + "decay", at::full({}, decay_, at::kFloat));
  state.insert(start + "num_updates", at::full({}, num_updates_, at::kInt));
  for (const auto& [name, average] : shadow_params_) state.insert(start + lit_ema_name(name), average);
  return state;
}

void LitEma::load_state_dict(const TensorMap& checkpoint, std::string_view prefix) {
  const at::NoGradGuard no_grad;
  const std::string start(prefix);
  const double decay = number(checkpoint, start + "decay").item<double>();
  require_decay(decay);
  const int64_t num_updates = number(checkpoint, start + "num_updates").item<int64_t>();
  // All entries are checked before the first one is copied.
  for (const auto& [name, average] : shadow_params_) {
    const Tensor& saved = find_entry(checkpoint, start + lit_ema_name(name));
    require<TensorError>(saved.sizes() == average.sizes(), "LitEma: the average of \"{}\" is {}, expected {}",
                         name, describe(saved), describe(average));
  }
  for (const auto& [name, average] : shadow_params_) average.copy_(checkpoint.at(start + lit_ema_name(name)));
  decay_ = decay;
  num_updates_ = num_updates;
}

TensorMap averages_from_lit_ema(const TensorMap& checkpoint, const std::vector<std::string>& parameter_names,
                                std::string_view prefix) {
  TensorMap averages;
  for (const std::string& name : parameter_names) {
    const std::string key = std::string(prefix) + lit_ema_name(name);
    if (checkpoint.contains(key)) averages.insert(name, checkpoint.at(key));
  }
  require<TensorError>(!averages.empty(),
                       "none of {} parameters has an average named \"{}...\" among {} tensors",
                       parameter_names.size(), prefix, checkpoint.size());
  return averages;
}

}  // namespace diffusers
