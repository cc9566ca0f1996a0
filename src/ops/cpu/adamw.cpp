#include "ops/cpu/adamw.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>

#include <diffusers/ops/fused.h>

#include "core/parallel.h"
#include "ops/cpu/kernels.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

/// Elements of an item. An item may hold several small tensors, and a large tensor has several items.
constexpr int64_t kAdamWItem = 16384;
/// Each tensor begins at a multiple of this number, so that the parts of a tensor are aligned as it is.
constexpr int64_t kAdamWAlignment = 16;

/// The elements of all tensors of a call, one tensor after the other.
class AdamWElements {
 public:
  void add(const AdamWFactors& factors, const AdamWPointers& pointers, int64_t count) {
    if (count == 0) return;
    tensors_.push_back({factors, pointers, end_, count});
    end_ += (count + kAdamWAlignment - 1) / kAdamWAlignment * kAdamWAlignment;
  }

  /// Calls step(tensor, begin, end) for all elements, in parallel.
  template <class Step>
  void for_each_part(const Step& step) const {
    parallel_for(0, (end_ + kAdamWItem - 1) / kAdamWItem, 1, [&](int64_t first, int64_t last) {
      const int64_t begin = first * kAdamWItem;
      const int64_t end = std::min(last * kAdamWItem, end_);
      // The last tensor that does not begin behind `begin`.
      auto tensor = std::prev(std::upper_bound(tensors_.begin(), tensors_.end(), begin,
                                               [](int64_t at, const auto& one) { return at < one.begin; }));
      for (; tensor != tensors_.end() && tensor->begin < end; ++tensor) {
        const int64_t from = std::max<int64_t>(0, begin - tensor->begin);
        const int64_t to = std::min(end - tensor->begin, tensor->count);
        if (from < to) step(*tensor, from, to);
      }
    });
  }

 private:
  struct Entry {
    AdamWFactors factors;
    AdamWPointers pointers;
    int64_t begin = 0;
    int64_t count = 0;
  };

  std::vector<Entry> tensors_;
  int64_t end_ = 0;
};

/// @param step number of the step, from 1 on
AdamWFactors adamw_factors(const AdamWGroup& group, float grad_factor, float average_weight, double step) {
  const double rate = group.learning_rate;
  const double root_correction = std::sqrt(1 - std::pow(group.beta2, step));
  return {
      .grad_factor = grad_factor,
      .decay = group.is_decoupled ? 0.0F : static_cast<float>(group.weight_decay),
      .shrink = group.is_decoupled ? static_cast<float>(1 - rate * group.weight_decay) : 1.0F,
      .beta1_rest = static_cast<float>(1 - group.beta1),
      .beta2 = static_cast<float>(group.beta2),
      .beta2_rest = static_cast<float>(1 - group.beta2),
      // step_size m / (sqrt(v) / root_correction + eps), with one division less
      .step_size = static_cast<float>(rate * root_correction / (1 - std::pow(group.beta1, step))),
      .eps = static_cast<float>(group.eps * root_correction),
      .average_weight = average_weight,
  };
}

/// Writes as LibTorch's operations in place do, which count the versions of a tensor.
float* written(const at::Tensor& tensor) {
  tensor.unsafeGetTensorImpl()->bump_version();
  return tensor.mutable_data_ptr<float>();
}

}  // namespace

bool adamw_available() { return fused_cpu() && kernels_available(); }

bool are_dense_alike(const at::Tensor& tensor, const at::Tensor& other) {
  return tensor.defined() && other.defined() && tensor.is_cpu() && other.is_cpu() &&
         tensor.layout() == at::kStrided && other.layout() == at::kStrided &&
         tensor.scalar_type() == at::kFloat && other.scalar_type() == at::kFloat &&
         tensor.sizes() == other.sizes() && tensor.strides() == other.strides() &&
         tensor.is_non_overlapping_and_dense();
}

bool fits_adamw(const AdamWGroup& group) {
  if (!adamw_available()) return false;
  for (std::size_t i = 0; i < group.params.size(); ++i) {
    for (const at::Tensor& tensor : {group.grads[i], group.exp_avgs[i], group.exp_avg_sqs[i]})
      if (!are_dense_alike(tensor, group.params[i])) return false;
    if (!group.steps[i].is_cpu() || group.steps[i].scalar_type() != at::kFloat) return false;
  }
  return true;
}

void run_adamw(const std::vector<AdamWGroup>& groups, float grad_factor, float average_weight,
               bool is_skipped) {
  AdamWElements elements;
  for (const AdamWGroup& group : groups) {
    for (std::size_t i = 0; i < group.params.size(); ++i) {
      const bool has_average = !group.averages.empty() && group.averages[i].defined();
      if (is_skipped) {
        if (has_average)
          elements.add(
              {.average_weight = average_weight},
              {.param = group.params[i].mutable_data_ptr<float>(), .average = written(group.averages[i])},
              group.params[i].numel());
        continue;
      }
      float& step = *group.steps[i].mutable_data_ptr<float>();
      step += 1;
      elements.add(adamw_factors(group, grad_factor, average_weight, static_cast<double>(step)),
                   {.param = written(group.params[i]),
                    .grad = group.grads[i].const_data_ptr<float>(),
                    .exp_avg = written(group.exp_avgs[i]),
                    .exp_avg_sq = written(group.exp_avg_sqs[i]),
                    .average = has_average ? written(group.averages[i]) : nullptr},
                   group.params[i].numel());
    }
  }
  elements.for_each_part([is_skipped](const auto& tensor, int64_t begin, int64_t end) {
    if (is_skipped) {
      average_step(tensor.factors.average_weight, tensor.pointers.param, tensor.pointers.average, begin, end);
    } else {
      adamw_step(tensor.factors, tensor.pointers, begin, end);
    }
  });
}

void run_average(const std::vector<at::Tensor>& params, const std::vector<at::Tensor>& averages,
                 float weight) {
  AdamWGroup group;
  group.params = params;
  group.averages = averages;
  run_adamw({group}, 1.0F, weight, /*is_skipped=*/true);
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
