#pragma once

#include <string_view>

namespace diffusers {

/// Options of training and sampling on CUDA devices. They apply to the whole process and have no effect on
/// the CPU.
///
/// The environment variable DIFFUSERS_CUDA sets the initial value. It lists the options that are on, for
/// example `DIFFUSERS_CUDA=kernels,graphs`. `no_cudnn_tf32` in this list sets `allow_tf32_cudnn` to false.
///
/// `kernels`, `channels_last`, `async_copies` and `graphs` are off by default, because they have never run on
/// a device. `benchmarks/device_check.sh` checks and measures them.
struct CudaOptions {
  /// Uses this library's CUDA kernels: group norm with and without SiLU, GEGLU, timestep embedding, and the
  /// optimizer step. `set_fused_cuda` sets the same option. It needs a library that was built with CUDA.
  bool kernels = false;
  /// The Trainer stores the weights and the images `[B, C, H, W]` of a training in channels-last order
  /// (`unet.to(memory_format=torch.channels_last)`). The weights keep the order after the training.
  bool channels_last = false;
  /// The Trainer copies batches from pinned memory on a second stream, so that copies overlap with the
  /// computation of the step before.
  bool async_copies = false;
  /// Captures the forward and backward pass of a training step and the forward pass of a sampling step as a
  /// CUDA graph and replays it. A step that cannot be captured runs without a graph, and a warning says why.
  bool graphs = false;
  /// Lets matrix products use TF32 (`torch.backends.cuda.matmul.allow_tf32`; `--allow_tf32` of the training
  /// scripts). TF32 rounds float32 factors to 10 bits.
  bool allow_tf32 = false;
  /// Lets cuDNN's convolutions use TF32 (`torch.backends.cudnn.allow_tf32`). PyTorch's default is true.
  bool allow_tf32_cudnn = true;
  /// Lets cuDNN measure its algorithms for each new shape and choose the fastest
  /// (`torch.backends.cudnn.benchmark`). Two runs may then differ in the last bits. A training with
  /// `TrainingConfig::deterministic` switches it off.
  bool cudnn_benchmark = false;

  /// Compares all options.
  bool operator==(const CudaOptions&) const = default;
};

/// Returns the options in force: those of the last `set_cuda_options`, else those of DIFFUSERS_CUDA, else the
/// defaults. Thread-safe.
/// @return the options
/// @throws ConfigError if DIFFUSERS_CUDA names an unknown option, and `set_cuda_options` was not called
CudaOptions cuda_options();

/// Sets the options. TF32 and cuDNN options that changed are passed to LibTorch at once; the others are read
/// when a training or a sampling run starts. LibTorch's settings that a program made itself stay as they are,
/// unless the option changes. Thread-safe.
/// @param options new options
void set_cuda_options(const CudaOptions& options);

/// Parses the value of DIFFUSERS_CUDA.
/// @param names names of options, separated by commas: `kernels`, `channels_last`, `async_copies`, `graphs`,
///   `allow_tf32`, `no_cudnn_tf32`, `cudnn_benchmark`; may be empty
/// @return the defaults with the named options switched
/// @throws ConfigError naming an unknown option and the known ones
CudaOptions parse_cuda_options(std::string_view names);

}  // namespace diffusers
