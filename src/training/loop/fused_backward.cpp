#include "training/loop/fused_backward.h"

#include <map>
#include <memory>
#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include "core/require.h"
#include "training/optim/update_rule.h"

namespace diffusers {
inline namespace internal {

/// LibTorch calls it after the gradient of its parameter is complete.
struct FusedBackward::Hook : torch::autograd::PostAccumulateGradHook {
  Hook(FusedBackward& owner, std::size_t index,
       std::unique_ptr<torch::autograd::PostAccumulateGradHook> earlier)
      : owner(owner), index(index), earlier(std::move(earlier)) {}
  void operator()(const Tensor& parameter) override {
    if (earlier) (*earlier)(parameter);
    owner.take(index, parameter);
  }
  FusedBackward& owner;
  std::size_t index;
  std::unique_ptr<torch::autograd::PostAccumulateGradHook> earlier;  // null: there was none
};

FusedBackward::FusedBackward(const std::vector<Tensor>& parameters, const Tensor& is_nonfinite, Update update)
    : parameters_(parameters),
      norms_(parameters.size()),
      is_nonfinite_(is_nonfinite),
      update_(std::move(update)) {
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    auto earlier = std::move(torch::autograd::impl::post_acc_grad_hooks(parameters_[i]));
    torch::autograd::impl::set_post_acc_grad_hooks(parameters_[i],
                                                   std::make_unique<Hook>(*this, i, std::move(earlier)));
  }
}

FusedBackward::~FusedBackward() {
  for (const Tensor& parameter : parameters_) {
    auto& hook = torch::autograd::impl::post_acc_grad_hooks(parameter);
    auto earlier = std::move(static_cast<Hook&>(*hook).earlier);
    hook = std::move(earlier);
  }
}

void FusedBackward::take(std::size_t index, const Tensor& parameter) {
  const at::NoGradGuard no_grad;
  require<ConfigError>(
      !norms_[index].defined(),
      "fused_backward_pass is true, but the gradient of a parameter {} is completed twice in a "
      "step, as by a backward pass within the backward pass; set it to false",
      describe(parameter));
  norms_[index] = at::_foreach_norm({parameter.grad()}, 2).front();
  is_nonfinite_ = at::maximum(is_nonfinite_, norms_[index].isfinite().logical_not().to(at::kFloat));
  update_(parameter, is_nonfinite_.view({1}));
  parameter.mutable_grad().reset();
}

Tensor FusedBackward::total_norm() const {
  const at::NoGradGuard no_grad;
  std::map<DeviceAndDtype, std::vector<Tensor>> groups;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    if (norms_[i].defined()) groups[device_and_dtype(parameters_[i])].push_back(norms_[i]);
  std::vector<Tensor> norms;
  for (const auto& entry : groups)
    for (const Tensor& norm : entry.second)
      norms.push_back(norm.to(norm.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  return norms.empty() ? at::zeros_like(is_nonfinite_) : at::linalg_vector_norm(at::stack(norms), 2);
}

void require_fused_backward(const std::vector<diffusers::Update>& updates, const TrainingConfig& config) {
  if (!config.fused_backward_pass) return;
  std::string names;
  for (const diffusers::Update& update : updates)
    names += fmt::format("{}\"{}\"", names.empty() ? "" : ", ", update.name);
  require<ConfigError>(
      updates.size() == 1,
      "fused_backward_pass is true, but the task has the updates {}; it needs one update with "
      "one optimizer. Set fused_backward_pass to false",
      names);
  const double max_grad_norm = updates.front().max_grad_norm.value_or(config.max_grad_norm);
  require<ConfigError>(
      max_grad_norm == 0,
      "fused_backward_pass is true and max_grad_norm is {}: each parameter is updated before "
      "the norm over all gradients is known. Set max_grad_norm to 0 or fused_backward_pass to "
      "false",
      max_grad_norm);
}

}  // namespace internal
}  // namespace diffusers
