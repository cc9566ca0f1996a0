#pragma once

// The operations as compositions of LibTorch's operations. The fused kernels are tested and benchmarked
// against them. Arguments are not checked.

#include <diffusers/ops/attention.h>
#include <diffusers/ops/geglu.h>
#include <diffusers/ops/group_norm.h>
#include <diffusers/ops/group_norm_silu.h>

namespace diffusers {
inline namespace internal {
namespace reference {

at::Tensor group_norm(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                      const at::Tensor& bias, const GroupNormOptions& options);

at::Tensor group_norm_silu(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                           const at::Tensor& bias, double eps);

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const AttentionOptions& options);

at::Tensor geglu(const at::Tensor& x);

}  // namespace reference
}  // namespace internal
}  // namespace diffusers
