#include "training/loop/device_copies.h"

#include <ATen/ATen.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "data/batch_fields.h"

namespace diffusers {
inline namespace internal {
namespace {

void order_channels_last(Batch& batch) {
  for_each_tensor(batch, [](const BatchField& about, Tensor& field) {
    if (about.use == FieldUse::kImage && field.dim() == 4)
      field = field.contiguous(at::MemoryFormat::ChannelsLast);
  });
}

}  // namespace

DeviceCopies::DeviceCopies(at::Device device, const CudaOptions& options)
    : device_(device), channels_last_(options.channels_last && device.is_cuda()) {
  if (!options.async_copies || !device.is_cuda()) return;
  const c10::impl::VirtualGuardImpl guard(device.type());
  stream_ = guard.getStreamFromGlobalPool(device);
}

Batch DeviceCopies::to_device(const Batch& batch, at::ScalarType dtype) const {
  Batch moved;
  if (!stream_) {
    moved = batch.to(device_, dtype);
  } else {
    const c10::impl::VirtualGuardImpl guard(device_.type());
    const c10::Stream consumer = guard.getStream(device_);
    {
      const c10::StreamGuard copies(*stream_);
      moved = batch.to(device_, dtype);
    }
    c10::Event done(device_.type());
    done.record(*stream_);
    done.block(consumer);
    // The memory belongs to the stream of the copies; it must not be reused while the consumer reads it.
    for_each_tensor(moved, [&](const BatchField& about, Tensor& field) {
      if (about.use != FieldUse::kHost && field.device() == device_) field.record_stream(consumer);
    });
  }
  if (channels_last_) order_channels_last(moved);
  return moved;
}

}  // namespace internal
}  // namespace diffusers
