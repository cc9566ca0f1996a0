#include "ops/cpu/kernels.h"
#include "ops/cpu/winograd.h"

namespace diffusers {
inline namespace internal {
namespace cpu {

const WinogradKernel* winograd_kernel(int64_t max_lanes) {
#if defined(__x86_64__)
  if (max_lanes >= 16 && avx512_available()) return &winograd_kernel_avx512();
  if (max_lanes >= 8 && kernels_available()) return &winograd_kernel_avx2();
#endif
  return nullptr;
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
