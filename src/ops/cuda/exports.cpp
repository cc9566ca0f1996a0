#include "ops/cuda/exports.h"

extern "C" const diffusers::cuda::Exports* diffusers_cuda_ops() {
  using namespace diffusers::cuda;
  static const Exports exports{.group_norm = &fused_forward,
                               .group_norm_backward = &fused_backward,
                               .geglu = &run_geglu,
                               .geglu_backward = &run_geglu_backward,
                               .timestep_embedding = &run_timestep_embedding,
                               .gradient_norm = &run_gradient_norm,
                               .adamw = &run_adamw};
  return &exports;
}
