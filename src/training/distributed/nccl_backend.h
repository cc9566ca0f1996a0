#pragma once

// NCCL, which connects CUDA devices.

#include <chrono>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <c10/util/intrusive_ptr.h>

namespace diffusers {
inline namespace internal {

/// Returns true if the library was built with NCCL.
bool has_nccl();
/// Makes a group exchange CUDA tensors by NCCL, which connects the devices in the first exchange.
/// @throws ConfigError if the library was built without NCCL
/// @throws Error if libdiffusers_cuda.so cannot be loaded
void add_nccl_backend(c10d::ProcessGroup& group, const c10::intrusive_ptr<c10d::Store>& store,
                      std::chrono::milliseconds timeout);

}  // namespace internal
}  // namespace diffusers

extern "C" {
/// Exported by libdiffusers_cuda.so.
void diffusers_add_nccl_backend(c10d::ProcessGroup& group, const c10::intrusive_ptr<c10d::Store>& store,
                                std::chrono::milliseconds timeout);
}
