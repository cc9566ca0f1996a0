#pragma once

// The operations as compositions of LibTorch's: what the fused kernels are measured and tested against.
// Arguments are taken as valid.

#include <diffusers/ops/attention.h>
#include <diffusers/ops/group_norm_silu.h>

namespace diffusers {
inline namespace internal {
namespace reference {

at::Tensor group_norm_silu(const at::Tensor& x, int64_t num_groups, const at::Tensor& weight,
                           const at::Tensor& bias, double eps);

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const AttentionOptions& options);

}  // namespace reference
}  // namespace internal
}  // namespace diffusers
