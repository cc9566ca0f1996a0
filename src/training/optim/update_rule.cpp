// The update rules of Adam, AdamW, SGD and Lion; that of Adafactor is in adafactor.cpp.

#include "training/optim/update_rule.h"

#include <utility>

#include <ATen/ATen.h>

#include "ops/cpu/adamw.h"

namespace diffusers {
inline namespace internal {
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

/// Adam and AdamW, with this library's kernel on the CPU if it can step the batch, else with LibTorch's fused
/// kernels.
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
    if (update_on_cpu(batch, lr, weight_decay, skip)) return;
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
  /// Returns false, without an effect, if the kernel cannot step the batch.
  bool update_on_cpu(const UpdateBatch& batch, const LearningRate& lr, double weight_decay,
                     const std::optional<Tensor>& skip) const {
    if (config_.amsgrad || !batch.params.front().is_cpu()) return false;
    cpu::AdamWGroup group{.params = batch.params,
                          .grads = batch.grads,
                          .exp_avgs = batch.column(1),
                          .exp_avg_sqs = batch.column(2),
                          .steps = batch.column(0),
                          .averages = {},
                          .learning_rate = lr.tensor.defined() ? lr.tensor.item<double>() : lr.value,
                          .beta1 = config_.beta1,
                          .beta2 = config_.beta2,
                          .eps = config_.eps,
                          .weight_decay = weight_decay,
                          .is_decoupled = config_.type == OptimizerType::kAdamW};
    if (!cpu::fits_adamw(group)) return false;
    const bool is_skipped = skip && skip->item<float>() > 0;
    cpu::run_adamw({std::move(group)}, /*grad_factor=*/1.0F, /*average_weight=*/0.0F, is_skipped);
    return true;
  }

  OptimizerConfig config_;
};

/// SGD, with LibTorch's fused kernel.
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

/// Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2), by operations on the whole list. A skipped step
/// runs the same operations with gradients and step sizes of zero and factors of one.
class LionRule : public UpdateRule {
 public:
  explicit LionRule(const OptimizerConfig& config) : beta1_(config.beta1), beta2_(config.beta2) {}

  ParameterState new_state(const Tensor& parameter) const override {
    return {{"exp_avg", at::zeros_like(parameter)}};
  }

  void update(const UpdateBatch& batch, const LearningRate& lr, double weight_decay,
              const std::optional<Tensor>& skip) const override {
    const std::vector<Tensor> momenta = batch.column(0);
    std::vector<Tensor> grads = batch.grads;
    Tensor is_skipped;
    if (skip) {
      is_skipped = skip->squeeze() > 0;
      // The gradients may be NaN, which a factor of 0 does not remove.
      for (Tensor& grad : grads) grad = grad.masked_fill(is_skipped, 0);
    }
    const auto scale = [&](const std::vector<Tensor>& tensors, const LearningRate& factor,
                           double factor_if_skipped) {
      if (!skip && !factor.tensor.defined()) return at::_foreach_mul_(tensors, factor.value);
      const at::ScalarType dtype = tensors.front().scalar_type();
      Tensor chosen = factor.tensor.defined() ? factor.tensor.to(dtype)
                                              : at::full({}, factor.value, tensors.front().options());
      if (skip) chosen = at::where(is_skipped, factor_if_skipped, chosen);
      at::_foreach_mul_(tensors, chosen.to(dtype));
    };

    // theta -= lr (sign(beta1 m + (1 - beta1) g) + lambda theta)
    const std::vector<Tensor> updates = at::_foreach_mul(momenta, beta1_);
    at::_foreach_add_(updates, grads, 1 - beta1_);
    at::_foreach_sign_(updates);
    scale(updates, lr.map([](const auto& rate) { return -rate; }), 0);
    if (weight_decay != 0)
      scale(batch.params, lr.map([&](const auto& rate) { return 1 - rate * weight_decay; }), 1);
    at::_foreach_add_(batch.params, updates);

    // m = beta2 m + (1 - beta2) g
    scale(momenta, {.value = beta2_}, 1);
    at::_foreach_add_(momenta, grads, 1 - beta2_);
  }

 private:
  double beta1_;
  double beta2_;
};

}  // namespace

std::vector<Tensor> UpdateBatch::column(std::size_t index) const {
  std::vector<Tensor> tensors;
  tensors.reserve(states.size());
  for (const ParameterState* state : states) tensors.push_back(state->at(index).second);
  return tensors;
}

Tensor new_step_count(const Tensor& parameter) {
  return at::zeros({}, at::TensorOptions().dtype(at::kFloat).device(parameter.device()));
}

void uncount_skipped(const std::vector<Tensor>& steps, const std::optional<Tensor>& skip) {
  if (skip) at::_foreach_sub_(steps, std::vector<Tensor>(steps.size(), skip->squeeze()));
}

std::shared_ptr<const UpdateRule> make_adam_rule(const OptimizerConfig& config) {
  return std::make_shared<AdamRule>(config);
}

std::shared_ptr<const UpdateRule> make_sgd_rule(const OptimizerConfig& config) {
  return std::make_shared<SGDRule>(config);
}

std::shared_ptr<const UpdateRule> make_lion_rule(const OptimizerConfig& config) {
  return std::make_shared<LionRule>(config);
}

}  // namespace internal
}  // namespace diffusers
