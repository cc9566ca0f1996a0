// Lion (Chen et al. 2023, arXiv 2302.06675, algorithm 2).

#include <ATen/ATen.h>

#include "training/optim/update_rule.h"

namespace diffusers {
namespace {

/// Every operation on the whole list at once. A skipped step goes through the same operations with gradients
/// and step sizes of zero and factors of one.
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
      // They may be NaN, which no factor makes zero.
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

std::shared_ptr<const UpdateRule> make_lion_rule(const OptimizerConfig& config) {
  return std::make_shared<LionRule>(config);
}

}  // namespace diffusers
