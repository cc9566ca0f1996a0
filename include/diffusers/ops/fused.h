#pragma once

namespace diffusers {

/// Lets the operations of `diffusers/ops` use this library's CPU kernels (default true). With false they are
/// composed of LibTorch operations, for comparisons and to rule out a kernel when numbers look wrong. Holds
/// for the whole process, from the next call of an operation on.
/// @param enabled uses the kernels
void set_fused_cpu(bool enabled);
/// @return true if the CPU kernels are used
bool fused_cpu();

/// Lets the operations of `diffusers/ops` use this library's CUDA kernels (default false: the kernels are
/// compiled but have not been measured on a device). Has no effect in a library that was built without CUDA.
/// @param enabled uses the kernels
void set_fused_cuda(bool enabled);
/// @return true if the CUDA kernels are used
bool fused_cuda();

}  // namespace diffusers
