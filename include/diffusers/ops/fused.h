#pragma once

namespace diffusers {

/// The switch of all kernels of this library.
namespace ops {

/// Enables or disables all kernels of this library. Disabled, the operations of `diffusers/ops` are
/// compositions of LibTorch operations: use this for comparisons, and to rule out a kernel if results look
/// wrong. The setting applies to the whole process, from the next call of an operation. Enabled, `fused_cpu`
/// and `fused_cuda` decide for their devices.
///
/// The environment variable DIFFUSERS_FUSED sets the initial value: "0" disables the kernels, "1" enables
/// them. Without the variable they are enabled.
/// @param enabled true uses the kernels
void set_fused(bool enabled);
/// Returns true if the kernels are enabled.
/// @throws ConfigError if DIFFUSERS_FUSED is neither "0" nor "1", and `set_fused` was not called
bool fused();

}  // namespace ops

/// Enables or disables this library's CPU kernels in the operations of `diffusers/ops`, the optimizer step of
/// AdamW and Adam, and the EMA. They are enabled by default.
/// @param enabled true uses the kernels
void set_fused_cpu(bool enabled);
/// Returns true if the CPU kernels are enabled, here and by `ops::fused`.
bool fused_cpu();

/// Enables or disables this library's CUDA kernels in the operations of `diffusers/ops`, the timestep
/// embedding and the Trainer's optimizer step. It sets `CudaOptions::kernels`. They are disabled by default,
/// because they have never run on a device. The setting has no effect in a library that was built without
/// CUDA.
/// @param enabled true uses the kernels
void set_fused_cuda(bool enabled);
/// Returns true if the CUDA kernels are enabled, here and by `ops::fused`.
bool fused_cuda();

}  // namespace diffusers
