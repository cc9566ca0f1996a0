#if defined(__AVX512F__)
#define DIFFUSERS_AVX512
#endif

#include "ops/cpu/adamw_kernel.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace avx512 {

void adamw_step(const AdamWFactors& factors, const AdamWPointers& tensor, int64_t begin, int64_t end) {
  run_adamw_step(factors, tensor, begin, end);
}

void average_step(float weight, const float* param, float* average, int64_t begin, int64_t end) {
  run_average_step(weight, param, average, begin, end);
}

}  // namespace avx512
}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
