#include "ops/cpu/attention_kernel.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace avx2 {

int64_t attention_scratch(const AttentionShape& shape) { return run_scratch(shape); }

void attention_forward(const AttentionShape& shape, const AttentionInputs& inputs,
                       const HeadsView<float>& output, float* log_sum, float* scratch, int64_t begin,
                       int64_t end) {
  run_forward(shape, inputs, output, log_sum, scratch, begin, end);
}

void attention_backward(const AttentionShape& shape, const AttentionInputs& inputs,
                        const HeadsView<const float>& output, const HeadsView<const float>& grad_output,
                        const float* log_sum, const AttentionGradients& gradients, float* scratch,
                        int64_t begin, int64_t end) {
  run_backward(shape, inputs, output, grad_output, log_sum, gradients, scratch, begin, end);
}

}  // namespace avx2
}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
