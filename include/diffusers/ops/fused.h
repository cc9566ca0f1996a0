#pragma once

namespace diffusers {

/// Enables or disables this library's CPU kernels in the operations of `diffusers/ops`. They are enabled by
/// default. Disabled, the operations are compositions of LibTorch operations: use this for comparisons, and
/// to rule out a kernel if results look wrong. The setting applies to the whole process, from the next call
/// of an operation.
/// @param enabled true uses the kernels
void set_fused_cpu(bool enabled);
/// Returns true if the CPU kernels are enabled.
bool fused_cpu();

/// Enables or disables this library's CUDA kernels in the operations of `diffusers/ops`. They are disabled by
/// default, because they have not been measured on a device. The setting has no effect in a library that was
/// built without CUDA.
/// @param enabled true uses the kernels
void set_fused_cuda(bool enabled);
/// Returns true if the CUDA kernels are enabled.
bool fused_cuda();

}  // namespace diffusers
