#pragma once

namespace diffusers {

/// Whether the operations of this folder may use their own CPU kernels (default true). With false, every call
/// is composed of LibTorch operations: for comparisons, and to rule a kernel out when numbers look wrong. The
/// switch holds for the whole process and acts on calls that start after it.
void set_fused_cpu(bool enabled);
bool fused_cpu();

/// The same for their CUDA kernels. Default false: these kernels are compiled, but have not yet been measured
/// on a device, so a program has to ask for them. Without effect in a library built without CUDA.
void set_fused_cuda(bool enabled);
bool fused_cuda();

}  // namespace diffusers
