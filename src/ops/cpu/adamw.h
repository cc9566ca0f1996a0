#pragma once

// Calls the CPU kernels of the optimizer step of AdamW and Adam and of the EMA with tensors. The result of an
// element does not depend on the other tensors of a call, nor on the number of threads.

#include <vector>

#include <ATen/core/Tensor.h>

namespace diffusers {
inline namespace internal {
namespace cpu {

/// Parameters with equal options. The lists have equal lengths.
struct AdamWGroup {
  std::vector<at::Tensor> params, grads, exp_avgs, exp_avg_sqs;
  std::vector<at::Tensor> steps;     ///< 0-dim: the steps that were taken
  std::vector<at::Tensor> averages;  ///< empty, or one for each parameter; undefined: no EMA
  double learning_rate = 0;
  double beta1 = 0;
  double beta2 = 0;
  double eps = 0;
  double weight_decay = 0;
  bool is_decoupled = true;  ///< AdamW; false: Adam
};

/// Returns true if this machine has the kernels and they are enabled (`fused_cpu`).
bool adamw_available();
/// Returns true if the kernels can read both tensors together: float32 on the CPU, dense, with equal sizes
/// and strides.
bool are_dense_alike(const at::Tensor& tensor, const at::Tensor& other);
/// Returns true if the kernels are available and can step the group.
bool fits_adamw(const AdamWGroup& group);

/// Steps all parameters, their moments, step counts and averages in one pass.
/// @param grad_factor factor on the gradients, which do not change
/// @param average_weight 1 - decay of the EMA
/// @param is_skipped true: only the averages move
void run_adamw(const std::vector<AdamWGroup>& groups, float grad_factor, float average_weight,
               bool is_skipped);

/// Moves all averages towards the parameters, as `run_adamw` does.
/// @param params float32 on the CPU, each like its average (`are_dense_alike`)
void run_average(const std::vector<at::Tensor>& params, const std::vector<at::Tensor>& averages,
                 float weight);

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
