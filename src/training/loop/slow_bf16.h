#pragma once

// Half precision on processors that have no instructions for it.

#include <diffusers/training/training_config.h>

#include <c10/core/Device.h>

namespace diffusers {
inline namespace internal {

/// Returns true if the processor multiplies matrices of bfloat16: an x86 processor with AMX-BF16. With
/// AVX512-BF16 alone, steps in bf16 were measured slower than in float32 (docs/performance.md).
bool processor_multiplies_bf16();

/// Warns if a training computes in bfloat16 on a CPU that does not multiply bfloat16 numbers.
/// @param multiplies_bf16 result of `processor_multiplies_bf16`
/// @return whether it did
bool warn_of_slow_bf16(at::Device device, MixedPrecision precision, bool multiplies_bf16);

}  // namespace internal
}  // namespace diffusers
