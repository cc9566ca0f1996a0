#define DIFFUSERS_WINOGRAD_LANES 8
#include "ops/cpu/matrix_product_kernel.h"

namespace diffusers {
inline namespace internal {
namespace cpu {

const MatrixKernel& matrix_kernel_avx2() { return kMatrixKernel; }

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
