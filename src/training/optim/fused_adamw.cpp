#include "training/optim/fused_adamw.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include <diffusers/ops/fused.h>

#include <ATen/ATen.h>

#include "core/require.h"
#include "ops/cpu/adamw.h"
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

at::Device device_of(const Optimizer& optimizer) {
  return optimizer.param_groups().front().params.front().device();
}

bool has_kernels(at::Device device) {
  if (device.is_cpu()) return cpu::adamw_available();
#if defined(DIFFUSERS_WITH_CUDA)
  return device.is_cuda() && fused_cuda();
#else
  return false;
#endif
}

}  // namespace

bool FusedAdamW::can_serve(const Optimizer& optimizer) {
  const OptimizerConfig& config = optimizer.config();
  const bool is_adam = config.type == OptimizerType::kAdamW || config.type == OptimizerType::kAdam;
  const at::Device device = device_of(optimizer);
  if (!is_adam || config.amsgrad || !has_kernels(device)) return false;
  return std::all_of(
      optimizer.param_groups().begin(), optimizer.param_groups().end(), [&](const ParameterGroup& group) {
        return std::all_of(group.params.begin(), group.params.end(), [&](const Tensor& parameter) {
          return parameter.device() == device && is_dense_like(parameter, parameter);
        });
      });
}

bool FusedAdamW::begin() {
  const bool is_served = collect();
  if (!is_served) groups_.clear();
  return is_served;
}

bool FusedAdamW::collect() {
  groups_.clear();
  if (!has_kernels(device_of(optimizer_))) return false;
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

Tensor FusedAdamW::gradient_norm([[maybe_unused]] const Tensor& scale,
                                 [[maybe_unused]] double max_norm) const {
#if defined(DIFFUSERS_WITH_CUDA)
  std::vector<Tensor> grads;
  for (const Group& group : groups_) grads.insert(grads.end(), group.grads.begin(), group.grads.end());
  return cuda::run_gradient_norm(grads, scale, max_norm);
#else
  fail<Error>("FusedAdamW: the library was built without CUDA");
#endif
}

FusedAdamW::Averages FusedAdamW::stepped_averages(const FusedAverage* average) const {
  Averages averages;
  if (average == nullptr) return averages;
  for (std::size_t i = 0; i < average->parameters.size(); ++i)
    if (is_dense_like(average->averages[i], average->parameters[i]))
      averages.emplace(average->parameters[i].unsafeGetTensorImpl(), average->averages[i]);
  std::size_t found = 0;
  for (const Group& group : groups_)
    for (const Tensor& parameter : group.params) found += averages.count(parameter.unsafeGetTensorImpl());
  return found == average->parameters.size() ? averages : Averages();
}

std::vector<Tensor> FusedAdamW::averages_of(const Group& group, const Averages& averages) {
  std::vector<Tensor> found;
  if (averages.empty()) return found;
  for (const Tensor& parameter : group.params) {
    const auto entry = averages.find(parameter.unsafeGetTensorImpl());
    found.push_back(entry == averages.end() ? Tensor() : entry->second);
  }
  return found;
}

double FusedAdamW::weight_decay(std::size_t group) const {
  return optimizer_.param_groups()[group].weight_decay.value_or(optimizer_.config().weight_decay);
}

void FusedAdamW::step_on_cpu(double lr_factor, const Tensor& outcome, const Tensor& skip,
                             const Averages& averages, float average_weight) const {
  const OptimizerConfig& config = optimizer_.config();
  std::vector<cpu::AdamWGroup> groups;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const Group& group = groups_[g];
    groups.push_back({.params = group.params,
                      .grads = group.grads,
                      .exp_avgs = group.exp_avgs,
                      .exp_avg_sqs = group.exp_avg_sqs,
                      .steps = group.steps,
                      .averages = averages_of(group, averages),
                      .learning_rate = optimizer_.lr(g) * lr_factor,
                      .beta1 = config.beta1,
                      .beta2 = config.beta2,
                      .eps = config.eps,
                      .weight_decay = weight_decay(g),
                      .is_decoupled = config.type == OptimizerType::kAdamW});
  }
  cpu::run_adamw(groups, outcome.const_data_ptr<float>()[2], average_weight, skip.item<float>() > 0);
}

#if defined(DIFFUSERS_WITH_CUDA)
void FusedAdamW::step_on_cuda(double lr_factor, const Tensor& device_factor, const Tensor& outcome,
                              const Tensor& skip, const Averages& averages, float average_weight) const {
  const OptimizerConfig& config = optimizer_.config();
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const Group& group = groups_[g];
    if (group.params.empty()) continue;
    const cuda::AdamWTensors tensors{group.params,      group.grads, group.exp_avgs,
                                     group.exp_avg_sqs, group.steps, averages_of(group, averages)};
    const Tensor rate = device_factor.defined() ? device_factor * optimizer_.lr(g) : Tensor();
    cuda::run_adamw(tensors,
                    {.learning_rate = optimizer_.lr(g) * lr_factor,
                     .beta1 = config.beta1,
                     .beta2 = config.beta2,
                     .eps = config.eps,
                     .weight_decay = weight_decay(g),
                     .is_decoupled = config.type == OptimizerType::kAdamW,
                     .average_weight = average_weight},
                    rate, outcome, skip);
  }
}
#endif

bool FusedAdamW::step(double lr_factor, const Tensor& device_factor, const Tensor& outcome,
                      const Tensor& skip, const FusedAverage* average) {
  const Averages averages = stepped_averages(average);
  const bool is_averaged = !averages.empty();
  const float average_weight = is_averaged ? static_cast<float>(average->weight) : 0.0F;
  if (device_of(optimizer_).is_cpu()) {
    step_on_cpu(device_factor.defined() ? device_factor.item<double>() : lr_factor, outcome, skip, averages,
                average_weight);
  } else {
#if defined(DIFFUSERS_WITH_CUDA)
    step_on_cuda(lr_factor, device_factor, outcome, skip, averages, average_weight);
#else
    fail<Error>("FusedAdamW: the library was built without CUDA");
#endif
  }
  groups_.clear();
  return is_averaged;
}

}  // namespace internal
}  // namespace diffusers
