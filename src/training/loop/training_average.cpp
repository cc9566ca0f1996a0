#include "training/loop/training_average.h"

#include <algorithm>
#include <string>

namespace diffusers {
inline namespace internal {

TrainingAverage::TrainingAverage(const TensorMap& named_parameters, const TrainingConfig& config,
                                 const ParameterShards* shards)
    : named_parameters_(named_parameters) {
  for (const auto& entry : named_parameters_) {
    parameters_.push_back(entry.second);
    is_elsewhere_.push_back(shards != nullptr && shards->contains(entry.second) &&
                            !shards->is_own(entry.second));
  }
  if (config.ema_type == EMAType::kLitEma) {
    lit_ema_.emplace(seen_by_name(),
                     LitEmaConfig{.decay = config.ema_max_decay, .use_num_updates = config.use_ema_warmup});
  } else {
    ema_model_.emplace(seen_parameters(), EMAModelConfig{.decay = config.ema_max_decay,
                                                         .min_decay = config.ema_min_decay,
                                                         .update_after_step = config.ema_update_after_step,
                                                         .use_ema_warmup = config.use_ema_warmup,
                                                         .inv_gamma = config.ema_inv_gamma,
                                                         .power = config.ema_power});
  }
}

std::vector<Tensor> TrainingAverage::seen_parameters() const {
  std::vector<Tensor> parameters;
  for (std::size_t i = 0; i < parameters_.size(); ++i) parameters.push_back(seen(i));
  return parameters;
}

TensorMap TrainingAverage::seen_by_name() const {
  TensorMap parameters;
  std::size_t index = 0;
  for (const auto& entry : named_parameters_) parameters.insert(entry.first, seen(index++));
  return parameters;
}

void TrainingAverage::hold_whole() {
  whole_ = tensors();
  for (std::size_t i = 0; i < whole_.size(); ++i)
    if (is_elsewhere_[i]) whole_[i] = parameters_[i].detach().clone();
}

void TrainingAverage::step() {
  if (lit_ema_) {
    lit_ema_->step(seen_by_name());
  } else {
    ema_model_->step(seen_parameters());
  }
}

std::optional<FusedAverage> TrainingAverage::begin_fused_step() {
  if (!ema_model_) return std::nullopt;
  FusedAverage average;
  const std::vector<Tensor>& shadows = ema_model_->shadow_params();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    // The average of a parameter that is trained from now on has the memory of the parameter; `step` copies
    // it.
    const bool is_trained = parameters_[i].requires_grad();
    const bool is_shared = shadows[i].is_alias_of(parameters_[i]);
    if (!is_trained && is_shared) continue;  // it is not averaged
    if (!is_trained || is_shared || parameters_[i].scalar_type() != at::kFloat ||
        shadows[i].scalar_type() != at::kFloat)
      return std::nullopt;
    average.parameters.push_back(parameters_[i]);
    average.averages.push_back(shadows[i]);
  }
  if (average.parameters.empty()) return std::nullopt;
  set_optimization_step(optimization_step() + 1);
  average.weight = 1 - ema_model_->get_decay(optimization_step());
  return average;
}

void TrainingAverage::copy_to_parameters() const {
  if (lit_ema_) {
    lit_ema_->copy_to(seen_by_name());
  } else {
    ema_model_->copy_to(parameters_);
  }
}

std::vector<Tensor> TrainingAverage::tensors() const {
  if (!whole_.empty()) return whole_;
  if (ema_model_) return ema_model_->shadow_params();
  std::vector<Tensor> averages;
  for (const auto& [name, parameter] : named_parameters_) {
    const auto average = lit_ema_->shadow_params().find(name);
    averages.push_back(average == lit_ema_->shadow_params().end() ? parameter.detach() : average->second);
  }
  return averages;
}

int64_t TrainingAverage::optimization_step() const {
  return lit_ema_ ? std::max<int64_t>(0, lit_ema_->num_updates()) : ema_model_->optimization_step();
}

void TrainingAverage::set_optimization_step(int64_t step) {
  if (lit_ema_) {
    lit_ema_->set_num_updates(step);
  } else {
    ema_model_->load_state({ema_model_->config(), step});
  }
}

}  // namespace internal
}  // namespace diffusers
