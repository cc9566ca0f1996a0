#include "ops/cpu/kernels.h"

#include "ops/cpu/instruction_set.h"

namespace diffusers {
inline namespace internal {
namespace cpu {

bool kernels_available() { return instruction_set() != InstructionSet::kNone; }

bool avx512_available() { return instruction_set() == InstructionSet::kAvx512; }

void group_norm_forward(const GroupNormShape& shape, const GroupNormParameters& parameters, double eps,
                        const float* x, float* y, const GroupNormStatistics& statistics, int64_t begin,
                        int64_t end) {
  static const auto kernel = avx512_available() ? avx512::group_norm_forward : avx2::group_norm_forward;
  kernel(shape, parameters, eps, x, y, statistics, begin, end);
}

void group_norm_backward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                         const float* grad_y, const float* x, const GroupNormStatistics& statistics,
                         const GroupNormGradientViews& gradients, int64_t begin, int64_t end) {
  static const auto kernel = avx512_available() ? avx512::group_norm_backward : avx2::group_norm_backward;
  kernel(shape, parameters, grad_y, x, statistics, gradients, begin, end);
}

void adamw_step(const AdamWFactors& factors, const AdamWPointers& tensor, int64_t begin, int64_t end) {
  static const auto kernel = avx512_available() ? avx512::adamw_step : avx2::adamw_step;
  kernel(factors, tensor, begin, end);
}

void average_step(float weight, const float* param, float* average, int64_t begin, int64_t end) {
  static const auto kernel = avx512_available() ? avx512::average_step : avx2::average_step;
  kernel(weight, param, average, begin, end);
}

int64_t attention_scratch(const AttentionShape& shape) {
  return avx512_available() ? avx512::attention_scratch(shape) : avx2::attention_scratch(shape);
}

void attention_forward(const AttentionShape& shape, const AttentionInputs& inputs,
                       const HeadsView<float>& output, float* log_sum, float* scratch, int64_t begin,
                       int64_t end) {
  static const auto kernel = avx512_available() ? avx512::attention_forward : avx2::attention_forward;
  kernel(shape, inputs, output, log_sum, scratch, begin, end);
}

void attention_backward(const AttentionShape& shape, const AttentionInputs& inputs,
                        const HeadsView<const float>& output, const HeadsView<const float>& grad_output,
                        const float* log_sum, const AttentionGradients& gradients, float* scratch,
                        int64_t begin, int64_t end) {
  static const auto kernel = avx512_available() ? avx512::attention_backward : avx2::attention_backward;
  kernel(shape, inputs, output, grad_output, log_sum, gradients, scratch, begin, end);
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
