#include "ops/cpu/matrix_product.h"

#include "ops/cpu/kernels.h"

namespace diffusers {
inline namespace internal {
namespace cpu {

const MatrixKernel* matrix_kernel(int64_t max_lanes) {
#if defined(__x86_64__)
  if (max_lanes >= 16 && avx512_available()) return &matrix_kernel_avx512();
  if (max_lanes >= 8 && kernels_available()) return &matrix_kernel_avx2();
#endif
  return nullptr;
}

bool is_amd_processor() {
#if defined(__x86_64__)
  return __builtin_cpu_is("amd") != 0;
#else
  return false;
#endif
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
