#include "ops/cpu/matrix_product.h"

namespace diffusers {
inline namespace internal {
namespace cpu {

const MatrixKernel* matrix_kernel(int64_t max_lanes) {
#if defined(__x86_64__)
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (max_lanes >= 16 && has_avx512) return &matrix_kernel_avx512();
  if (max_lanes >= 8 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return &matrix_kernel_avx2();
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
