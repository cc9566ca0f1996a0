#include "ops/cpu/group_norm_kernel.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace avx2 {

void group_norm_forward(const GroupNormShape& shape, const GroupNormParameters& parameters, double eps,
                        const float* x, float* y, const GroupNormStatistics& statistics, int64_t begin,
                        int64_t end) {
  run_forward(shape, parameters, eps, x, y, statistics, begin, end);
}

void group_norm_backward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                         const float* grad_y, const float* x, const GroupNormStatistics& statistics,
                         const GroupNormGradientViews& gradients, int64_t begin, int64_t end) {
  run_backward(shape, parameters, grad_y, x, statistics, gradients, begin, end);
}

}  // namespace avx2
}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
