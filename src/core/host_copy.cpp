#include "core/host_copy.h"

#include <unordered_set>

#include <diffusers/core/tensor.h>

#include <ATen/ATen.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

namespace diffusers {
inline namespace internal {
namespace {

/// Allocates host memory for a copy of `tensor`. It is page-locked if the tensor is on a device: the driver
/// then needs no second copy, and several copies run without waiting for each other.
Tensor host_memory_for(const Tensor& tensor) {
  const at::TensorOptions on_host = tensor.options().device(at::kCPU);
  if (tensor.is_cuda()) {
    try {
      return at::empty(tensor.sizes(), on_host.pinned_memory(true));
    } catch (const c10::Error&) {
      // The system has no more page-locked memory. Ordinary memory works as well, but is slower.
    }
  }
  return at::empty_like(tensor, on_host);
}

}  // namespace

TensorMap host_copy(const TensorMap& tensors) {
  TensorMap copies;
  std::unordered_set<at::Device> devices;
  for (const auto& [name, tensor] : tensors) {
    const Tensor source = tensor.detach();
    const Tensor copy = host_memory_for(source);
    copy.copy_(source, /*non_blocking=*/true);
    copies.insert(name, copy);
    if (!source.is_cpu()) devices.insert(source.device());
  }
  for (const at::Device device : devices)
    c10::impl::VirtualGuardImpl(device.type()).getStream(device).synchronize();
  return copies;
}

}  // namespace internal
}  // namespace diffusers
