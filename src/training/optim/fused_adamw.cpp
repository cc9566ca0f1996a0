#include "training/optim/fused_adamw.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include <diffusers/ops/fused.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "ops/cuda/adamw_tensors.h"

namespace diffusers {
inline namespace internal {
namespace {

/// True if the elements fill the memory, in the order of `other`.
bool is_dense_like(const Tensor& tensor, const Tensor& other) {
  return tensor.defined() && tensor.scalar_type() == at::kFloat && tensor.device() == other.device() &&
         tensor.sizes() == other.sizes() && tensor.strides() == other.strides() &&
         tensor.is_non_overlapping_and_dense();
}

#if defined(DIFFUSERS_WITH_CUDA)
bool is_stepped(const Tensor& parameter, at::Device device) {
  return parameter.device() == device && is_dense_like(parameter, parameter);
}
#endif

}  // namespace

bool FusedAdamW::can_serve(const Optimizer& optimizer) {
#if defined(DIFFUSERS_WITH_CUDA)
  const OptimizerConfig& config = optimizer.config();
  const bool is_adam = config.type == OptimizerType::kAdamW || config.type == OptimizerType::kAdam;
  const at::Device device = optimizer.param_groups().front().params.front().device();
  if (!is_adam || config.amsgrad || !device.is_cuda() || !fused_cuda()) return false;
  return std::all_of(
      optimizer.param_groups().begin(), optimizer.param_groups().end(), [&](const ParameterGroup& group) {
        return std::all_of(group.params.begin(), group.params.end(),
                           [&](const Tensor& parameter) { return is_stepped(parameter, device); });
      });
#else
  static_cast<void>(optimizer);
  return false;
#endif
}

bool FusedAdamW::begin() {
  groups_.clear();
  std::optional<TensorMap> all_states;  // made once in a step, and only if a parameter is new
  std::size_t number = 0;
  bool has_gradient = false;
  for (const ParameterGroup& group : optimizer_.param_groups()) {
    Group& collected = groups_.emplace_back();
    for (std::size_t i = 0; i < group.params.size(); ++i) {
      const Tensor& parameter = group.params[i];
      if (states_.size() <= number) states_.emplace_back();
      State& state = states_[number];
      const std::string key = group.names.empty() ? std::to_string(number) : group.names[i];
      ++number;
      const Tensor& grad = parameter.grad();
      if (!grad.defined()) continue;
      if (!state.step.defined()) {
        if (!all_states) all_states = optimizer_.state_dict();
        if (!all_states->contains(key + ".step")) return false;
        state = {all_states->at(key + ".exp_avg"), all_states->at(key + ".exp_avg_sq"),
                 all_states->at(key + ".step")};
      }
      for (const Tensor& tensor : {grad, state.exp_avg, state.exp_avg_sq})
        if (!is_dense_like(tensor, parameter)) return false;
      has_gradient = true;
      collected.params.push_back(parameter);
      collected.grads.push_back(grad);
      collected.exp_avgs.push_back(state.exp_avg);
      collected.exp_avg_sqs.push_back(state.exp_avg_sq);
      collected.steps.push_back(state.step);
    }
  }
  return has_gradient;
}

#if defined(DIFFUSERS_WITH_CUDA)
Tensor FusedAdamW::gradient_norm(const Tensor& scale, double max_norm) const {
  std::vector<Tensor> grads;
  for (const Group& group : groups_) grads.insert(grads.end(), group.grads.begin(), group.grads.end());
  return cuda::run_gradient_norm(grads, scale, max_norm);
}

bool FusedAdamW::step(double lr_factor, const Tensor& device_factor, const Tensor& outcome,
                      const Tensor& skip, const FusedAverage* average) const {
  std::map<const void*, Tensor> averages;  // by parameter
  if (average != nullptr)
    for (std::size_t i = 0; i < average->parameters.size(); ++i)
      if (is_dense_like(average->averages[i], average->parameters[i]))
        averages.emplace(average->parameters[i].unsafeGetTensorImpl(), average->averages[i]);
  std::size_t found = 0;
  for (const Group& group : groups_)
    for (const Tensor& parameter : group.params) found += averages.count(parameter.unsafeGetTensorImpl());
  const bool is_averaged = average != nullptr && found == average->parameters.size();

  const OptimizerConfig& config = optimizer_.config();
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const Group& group = groups_[g];
    if (group.params.empty()) continue;
    cuda::AdamWTensors tensors{group.params, group.grads, group.exp_avgs, group.exp_avg_sqs, group.steps, {}};
    if (is_averaged)
      for (const Tensor& parameter : group.params) {
        const auto entry = averages.find(parameter.unsafeGetTensorImpl());
        tensors.averages.push_back(entry == averages.end() ? Tensor() : entry->second);
      }
    const double weight_decay = optimizer_.param_groups()[g].weight_decay.value_or(config.weight_decay);
    const Tensor rate = device_factor.defined() ? device_factor * optimizer_.lr(g) : Tensor();
    cuda::run_adamw(tensors,
                    {.learning_rate = optimizer_.lr(g) * lr_factor,
                     .beta1 = config.beta1,
                     .beta2 = config.beta2,
                     .eps = config.eps,
                     .weight_decay = weight_decay,
                     .is_decoupled = config.type == OptimizerType::kAdamW,
                     .average_weight = is_averaged ? static_cast<float>(average->weight) : 0.0F},
                    rate, outcome, skip);
  }
  return is_averaged;
}
#else
Tensor FusedAdamW::gradient_norm(const Tensor& /*scale*/, double /*max_norm*/) const {
  fail<Error>("FusedAdamW: the library was built without CUDA");
}

bool FusedAdamW::step(double /*lr_factor*/, const Tensor& /*device_factor*/, const Tensor& /*outcome*/,
                      const Tensor& /*skip*/, const FusedAverage* /*average*/) const {
  fail<Error>("FusedAdamW: the library was built without CUDA");
}
#endif

}  // namespace internal
}  // namespace diffusers
