#pragma once

// The functions of src/ops/cuda that libdiffusers_cuda.so gives to the library.

#include "ops/cuda/adamw_tensors.h"
#include "ops/cuda/pointwise_tensors.h"
#include "ops/group_norm_backends.h"

namespace diffusers {
inline namespace internal {
namespace cuda {

/// One pointer for each function of src/ops/cuda that the library calls.
struct Exports {
  decltype(&fused_forward) group_norm;
  decltype(&fused_backward) group_norm_backward;
  decltype(&run_geglu) geglu;
  decltype(&run_geglu_backward) geglu_backward;
  decltype(&run_timestep_embedding) timestep_embedding;
  decltype(&run_gradient_norm) gradient_norm;
  decltype(&run_adamw) adamw;
};

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers

extern "C" {
/// Exported by libdiffusers_cuda.so.
const diffusers::cuda::Exports* diffusers_cuda_ops();
}
