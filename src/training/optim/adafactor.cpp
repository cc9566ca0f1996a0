// torch.optim.Adafactor, after Shazeer and Stern 2018 (arXiv 1804.04235), algorithms 4 and 5.

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/ATen.h>

#include "training/optim/update_rule.h"

namespace diffusers {
inline namespace internal {
namespace {

double machine_epsilon(at::ScalarType dtype) {
  switch (dtype) {
    case at::kDouble:
      return std::numeric_limits<double>::epsilon();
    case at::kHalf:
      return 0x1p-10;
    case at::kBFloat16:
      return 0x1p-7;
    default:
      return std::numeric_limits<float>::epsilon();
  }
}

std::vector<int64_t> with_size_one(at::IntArrayRef sizes, int64_t from_the_end) {
  std::vector<int64_t> result = sizes.vec();
  result[result.size() - from_the_end] = 1;
  return result;
}

/// The numbers that Python reads from the device stay there, as float64 scalars. As in Python's default, the
/// parameters are updated one after another, which needs the memory of only one update.
class AdafactorRule : public UpdateRule {
 public:
  explicit AdafactorRule(const OptimizerConfig& config) : config_(config) {}

  ParameterState new_state(const Tensor& parameter) const override {
    ParameterState state{{"step", new_step_count(parameter)}};
    if (parameter.dim() > 1) {
      const auto zeros = [&](int64_t from_the_end) {
        return at::zeros(with_size_one(parameter.sizes(), from_the_end), parameter.options());
      };
      state.emplace_back("row_var", zeros(1));
      state.emplace_back("col_var", zeros(2));
    } else {
      state.emplace_back("variance", at::zeros_like(parameter));
    }
    return state;
  }

  void update(const UpdateBatch& batch, const LearningRate& lr, double weight_decay,
              const std::optional<Tensor>& skip) const override {
    const std::vector<Tensor> steps = batch.column(0);
    at::_foreach_add_(steps, 1);
    // All [n], one element for each parameter.
    const Tensor t = at::stack(steps).to(at::kDouble);
    Tensor rho = t.sqrt().reciprocal();
    rho = lr.tensor.defined() ? at::minimum(rho, lr.tensor) : rho.clamp_max(lr.value);
    Tensor alpha = root_mean_squares(batch.params).clamp_min(config_.eps2) * rho;

    Tensor is_skipped;
    if (skip) {
      is_skipped = skip->squeeze() > 0;
      alpha = at::where(is_skipped, 0.0, alpha);
    }
    if (weight_decay != 0)
      shrink(batch.params, lr.map([&](const auto& rate) { return 1 - rate * weight_decay; }), is_skipped);
    for (std::size_t i = 0; i < batch.params.size(); ++i) {
      const auto index = static_cast<int64_t>(i);
      const Tensor& parameter = batch.params[i];
      // One power at a time: a vectorised power rounds differently at the end of a list, so that the result
      // would depend on the other parameters.
      const Tensor new_part = t[index].pow(config_.beta2_decay).to(parameter.scalar_type());
      Tensor update = scaled_gradient(batch.grads[i], *batch.states[i], new_part, is_skipped);
      if (is_skipped.defined()) update.masked_fill_(is_skipped, 0);
      const double root = std::sqrt(static_cast<double>(update.numel()));
      const Tensor too_large =
          (at::linalg_vector_norm(update).to(at::kDouble) / (root * config_.d)).clamp_min(1.0);
      parameter.sub_(update.mul_((alpha[index] / too_large).to(update.scalar_type())));
    }
    uncount_skipped(steps, skip);
  }

 private:
  static Tensor root_mean_squares(const std::vector<Tensor>& tensors) {
    std::vector<Tensor> norms;
    for (const Tensor& norm : at::_foreach_norm(tensors, 2)) norms.push_back(norm.to(at::kDouble));
    std::vector<at::Scalar> roots;
    for (const Tensor& tensor : tensors) roots.emplace_back(std::sqrt(static_cast<double>(tensor.numel())));
    at::_foreach_div_(norms, roots);
    return at::stack(norms);
  }

  static void shrink(const std::vector<Tensor>& parameters, const LearningRate& factor,
                     const Tensor& is_skipped) {
    if (!is_skipped.defined() && !factor.tensor.defined()) return at::_foreach_mul_(parameters, factor.value);
    const at::ScalarType dtype = parameters.front().scalar_type();
    Tensor chosen = factor.tensor.defined() ? factor.tensor.to(dtype)
                                            : at::full({}, factor.value, parameters.front().options());
    if (is_skipped.defined()) chosen = at::where(is_skipped, 1.0, chosen);
    at::_foreach_mul_(parameters, chosen.to(dtype));
  }

  /// Averages the squares of the gradient, and divides the gradient by their root.
  Tensor scaled_gradient(const Tensor& grad, const ParameterState& state, const Tensor& new_part,
                         const Tensor& is_skipped) const {
    const double eps1 = config_.eps1.value_or(machine_epsilon(grad.scalar_type()));
    const auto average_in = [&](const Tensor& average, Tensor value) {
      if (is_skipped.defined()) value = at::where(is_skipped, average, value);
      average.lerp_(value, new_part);
    };
    Tensor estimate;
    if (grad.dim() > 1) {
      const Tensor& rows = state[1].second;
      const Tensor& columns = state[2].second;
      const auto mean_square = [&](int64_t dim) {
        return at::linalg_vector_norm(grad, 2, at::IntArrayRef(dim), /*keepdim=*/true)
            .square_()
            .div_(grad.size(dim));
      };
      average_in(rows, mean_square(-1));
      average_in(columns, mean_square(-2));
      estimate = rows * columns;  // each row times each column
      estimate.div_(rows.mean(at::IntArrayRef({-2}), /*keepdim=*/true).clamp_min_(eps1));
    } else {
      average_in(state[1].second, grad * grad);
      estimate = state[1].second.clone();
    }
    return estimate.clamp_min_(eps1 * eps1).rsqrt_().mul_(grad);
  }

  OptimizerConfig config_;
};

}  // namespace

std::shared_ptr<const UpdateRule> make_adafactor_rule(const OptimizerConfig& config) {
  return std::make_shared<AdafactorRule>(config);
}

}  // namespace internal
}  // namespace diffusers
