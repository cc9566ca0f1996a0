// The rules for which LibTorch has a fused kernel: Adam, AdamW and SGD.

#include <ATen/ATen.h>

#include "training/optim/update_rule.h"

namespace diffusers {
namespace {

/// The kernels take a number, or a float32 tensor on the device.
template <class F>
void with_lr(const LearningRate& lr, F f) {
  if (lr.tensor.defined()) {
    f(lr.tensor.to(at::kFloat));
  } else {
    f(lr.value);
  }
}

class AdamRule : public UpdateRule {
 public:
  explicit AdamRule(const OptimizerConfig& config) : config_(config) {}

  ParameterState new_state(const Tensor& parameter) const override {
    ParameterState state{{"step", new_step_count(parameter)},
                         {"exp_avg", at::zeros_like(parameter)},
                         {"exp_avg_sq", at::zeros_like(parameter)}};
    if (config_.amsgrad) state.emplace_back("max_exp_avg_sq", at::zeros_like(parameter));
    return state;
  }

  void update(const UpdateBatch& batch, const LearningRate& lr, double weight_decay,
              const std::optional<Tensor>& skip) const override {
    const std::vector<Tensor> steps = batch.column(0);
    const std::vector<Tensor> max_exp_avg_sqs = config_.amsgrad ? batch.column(3) : std::vector<Tensor>();
    at::_foreach_add_(steps, 1);
    const auto run = [&](auto kernel) {
      with_lr(lr, [&](const auto& rate) {
        kernel(batch.params, batch.grads, batch.column(1), batch.column(2), max_exp_avg_sqs, steps, rate,
               config_.beta1, config_.beta2, weight_decay, config_.eps, config_.amsgrad, /*maximize=*/false,
               std::optional<Tensor>(), skip);
      });
    };
    if (config_.type == OptimizerType::kAdamW) {
      run([](const auto&... arguments) { at::_fused_adamw_(arguments...); });
    } else {
      run([](const auto&... arguments) { at::_fused_adam_(arguments...); });
    }
    uncount_skipped(steps, skip);
  }

 private:
  OptimizerConfig config_;
};

class SGDRule : public UpdateRule {
 public:
  explicit SGDRule(const OptimizerConfig& config) : config_(config) {}

  ParameterState new_state(const Tensor& parameter) const override {
    if (config_.momentum == 0) return {};
    return {{"momentum_buffer", at::zeros_like(parameter)}};
  }

  void update(const UpdateBatch& batch, const LearningRate& lr, double weight_decay,
              const std::optional<Tensor>& skip) const override {
    const std::vector<Tensor> buffers = config_.momentum == 0 ? std::vector<Tensor>() : batch.column(0);
    with_lr(lr, [&](const auto& rate) {
      at::_fused_sgd_(batch.params, batch.grads, buffers, weight_decay, config_.momentum, rate,
                      config_.dampening, config_.nesterov, /*maximize=*/false, batch.is_first_step, {}, skip);
    });
  }

 private:
  OptimizerConfig config_;
};

}  // namespace

std::shared_ptr<const UpdateRule> make_adam_rule(const OptimizerConfig& config) {
  return std::make_shared<AdamRule>(config);
}

std::shared_ptr<const UpdateRule> make_sgd_rule(const OptimizerConfig& config) {
  return std::make_shared<SGDRule>(config);
}

}  // namespace diffusers
