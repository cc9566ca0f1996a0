#pragma once

// The copies of a training's batches to the device of its model.

#include <optional>

#include <diffusers/core/cuda_options.h>
#include <diffusers/data/batch.h>

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

namespace diffusers {
inline namespace internal {

/// Copies batches to a device. With `CudaOptions::async_copies` a CUDA device copies on a stream of its own:
/// the copy of a batch then overlaps with the computation that was started before.
class DeviceCopies {
 public:
  /// @param options `async_copies` and `channels_last` apply to CUDA devices
  DeviceCopies(at::Device device, const CudaOptions& options);

  /// Copies a batch.
  /// @param dtype of floating images
  /// @return the batch on the device, ready for the current stream
  Batch to_device(const Batch& batch, at::ScalarType dtype) const;

 private:
  at::Device device_;
  bool channels_last_;
  std::optional<c10::Stream> stream_;  // nullopt: the current stream copies
};

}  // namespace internal
}  // namespace diffusers
