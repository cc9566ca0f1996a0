#define DIFFUSERS_WINOGRAD_LANES 8
#include "ops/cpu/winograd_kernel.h"

namespace diffusers {
inline namespace internal {
namespace cpu {

const WinogradKernel& winograd_kernel_avx2() { return kWinogradKernel; }

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
