#include "ops/cpu/kernels.h"

namespace diffusers {
inline namespace internal {
namespace cpu {

bool kernels_available() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
