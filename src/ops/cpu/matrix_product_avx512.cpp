#if defined(__AVX512F__)
#define DIFFUSERS_AVX512
#define DIFFUSERS_WINOGRAD_LANES 16
#else
#define DIFFUSERS_WINOGRAD_LANES 8
#endif

#include "ops/cpu/matrix_product_kernel.h"

namespace diffusers {
inline namespace internal {
namespace cpu {

const MatrixKernel& matrix_kernel_avx512() { return kMatrixKernel; }

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
