#pragma once

// The float32 CPU kernels of the fused operations, with raw pointers and sizes, without LibTorch. Work is
// split into independent items (a group of one image, a head of one image, a row), so the result does not
// depend on the number of threads.

#include <cstdint>

namespace diffusers {
inline namespace internal {
namespace cpu {

/// x is `[batch, groups * group_channels, spatial]`, contiguous. An item is one group of one image.
struct GroupNormShape {
  int64_t groups = 0;
  int64_t group_channels = 0;
  int64_t spatial = 0;
};

/// A `[batch, heads, rows, depth]` tensor with a contiguous last dimension; strides in elements.
template <class T>
struct HeadsView {
  T* data = nullptr;
  int64_t batch_stride = 0;
  int64_t head_stride = 0;
  int64_t row_stride = 0;
};

/// An item is one head of one image.
struct AttentionShape {
  int64_t heads = 0;
  int64_t queries = 0;
  int64_t keys = 0;
  int64_t depth = 0;  ///< depth of query, key and value, at most kMaxAttentionDepth
  float scale = 1.0F;
};

inline constexpr int64_t kMaxAttentionDepth = 32;

struct AttentionInputs {
  HeadsView<const float> query, key, value;
};

struct AttentionGradients {
  HeadsView<float> query, key, value;
};

/// Returns true if this build has the kernels and this machine can run them.
bool kernels_available();

/// Computes items [begin, end). `mean` and `rstd` `[batch * groups]` receive the statistics.
void group_norm_silu_forward(const GroupNormShape& shape, double eps, const float* x, const float* weight,
                             const float* bias, float* y, float* mean, float* rstd, int64_t begin,
                             int64_t end);

/// Computes items [begin, end). `grad_weight` and `grad_bias` `[batch, channels]` receive the share of each
/// image.
void group_norm_silu_backward(const GroupNormShape& shape, const float* grad_y, const float* x,
                              const float* weight, const float* bias, const float* mean, const float* rstd,
                              float* grad_x, float* grad_weight, float* grad_bias, int64_t begin,
                              int64_t end);

/// Returns the number of floats of scratch memory that one thread needs for either of the two functions
/// below.
int64_t attention_scratch(const AttentionShape& shape);

/// Computes items [begin, end). `log_sum` `[batch * heads, queries]` receives log2 of the sum of each row of
/// the softmax.
void attention_forward(const AttentionShape& shape, const AttentionInputs& inputs,
                       const HeadsView<float>& output, float* log_sum, float* scratch, int64_t begin,
                       int64_t end);

/// Computes items [begin, end) from the results of the forward pass.
void attention_backward(const AttentionShape& shape, const AttentionInputs& inputs,
                        const HeadsView<const float>& output, const HeadsView<const float>& grad_output,
                        const float* log_sum, const AttentionGradients& gradients, float* scratch,
                        int64_t begin, int64_t end);

/// Computes rows [begin, end) of hidden * gelu(gate). A row of x holds `features` values of hidden, then as
/// many of gate.
void geglu_forward(int64_t features, const float* x, float* y, int64_t begin, int64_t end);

/// Computes rows [begin, end) of the gradient of x.
void geglu_backward(int64_t features, const float* grad_y, const float* x, float* grad_x, int64_t begin,
                    int64_t end);

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
