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

/// y = norm(x + offset) * weight + bias, then SiLU if `silu` is set.
struct GroupNormParameters {
  const float* weight = nullptr;
  const float* bias = nullptr;
  /// 0: all images share weight and bias `[channels]`. Otherwise the number of channels, and both are
  /// `[batch, channels]`.
  int64_t image_stride = 0;
  const float* offset = nullptr;  ///< `[batch, channels]`, or null
  bool silu = false;
  bool has_statistics = false;  ///< the forward kernel reads the statistics and does not compute them
};

struct GroupNormStatistics {
  float* mean = nullptr;  ///< of x + offset, `[batch * groups]`
  float* rstd = nullptr;
};

/// The gradients for weight, bias and offset are `[batch, channels]`: the share of each image.
struct GroupNormGradientViews {
  float* x = nullptr;
  float* weight = nullptr;
  float* bias = nullptr;
  float* offset = nullptr;  ///< null without an offset
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

/// Returns true if this build has the kernels, this machine can run them and DIFFUSERS_CPU_CAPABILITY allows
/// them.
bool kernels_available();
/// Returns the same of the kernels of the namespace avx512.
bool avx512_available();

/// Computes items [begin, end) and their statistics. If `y` is null, the function computes the statistics
/// only.
void group_norm_forward(const GroupNormShape& shape, const GroupNormParameters& parameters, double eps,
                        const float* x, float* y, const GroupNormStatistics& statistics, int64_t begin,
                        int64_t end);

/// Computes items [begin, end). `gradients.x` may be the memory of `grad_y`.
void group_norm_backward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                         const float* grad_y, const float* x, const GroupNormStatistics& statistics,
                         const GroupNormGradientViews& gradients, int64_t begin, int64_t end);

// The two functions above call one of these, by the machine. The results have the same bits if the compiler
// contracts both in the same way.
namespace avx2 {
void group_norm_forward(const GroupNormShape& shape, const GroupNormParameters& parameters, double eps,
                        const float* x, float* y, const GroupNormStatistics& statistics, int64_t begin,
                        int64_t end);
void group_norm_backward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                         const float* grad_y, const float* x, const GroupNormStatistics& statistics,
                         const GroupNormGradientViews& gradients, int64_t begin, int64_t end);
}  // namespace avx2
namespace avx512 {
void group_norm_forward(const GroupNormShape& shape, const GroupNormParameters& parameters, double eps,
                        const float* x, float* y, const GroupNormStatistics& statistics, int64_t begin,
                        int64_t end);
void group_norm_backward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                         const float* grad_y, const float* x, const GroupNormStatistics& statistics,
                         const GroupNormGradientViews& gradients, int64_t begin, int64_t end);
}  // namespace avx512

/// Number of columns of a matrix that are one item of `transpose` and `normalize_transposed`.
inline constexpr int64_t kTransposeColumns = 32;

/// Transposes the matrices `[rows, columns]` of a batch and adds `addend` `[columns, rows]`, if it is not
/// null. An item is a block of columns of a matrix: item / blocks is the matrix, with blocks = columns /
/// kTransposeColumns, rounded up.
void transpose(int64_t rows, int64_t columns, const float* from, const float* addend, float* to,
               int64_t begin, int64_t end);

/// Applies the norm with given statistics, without SiLU, and writes `[batch, spatial, channels]`. The items
/// are those of `transpose` for matrices `[channels, spatial]`.
void normalize_transposed(const GroupNormShape& shape, const GroupNormParameters& parameters, const float* x,
                          const GroupNormStatistics& statistics, float* to, int64_t begin, int64_t end);

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

// The three functions above call one of these, by the machine.
namespace avx2 {
int64_t attention_scratch(const AttentionShape& shape);
void attention_forward(const AttentionShape& shape, const AttentionInputs& inputs,
                       const HeadsView<float>& output, float* log_sum, float* scratch, int64_t begin,
                       int64_t end);
void attention_backward(const AttentionShape& shape, const AttentionInputs& inputs,
                        const HeadsView<const float>& output, const HeadsView<const float>& grad_output,
                        const float* log_sum, const AttentionGradients& gradients, float* scratch,
                        int64_t begin, int64_t end);
}  // namespace avx2
namespace avx512 {
int64_t attention_scratch(const AttentionShape& shape);
void attention_forward(const AttentionShape& shape, const AttentionInputs& inputs,
                       const HeadsView<float>& output, float* log_sum, float* scratch, int64_t begin,
                       int64_t end);
void attention_backward(const AttentionShape& shape, const AttentionInputs& inputs,
                        const HeadsView<const float>& output, const HeadsView<const float>& grad_output,
                        const float* log_sum, const AttentionGradients& gradients, float* scratch,
                        int64_t begin, int64_t end);
}  // namespace avx512

/// The factors of one parameter in a step of AdamW or Adam.
struct AdamWFactors {
  float grad_factor = 1;     ///< factor on the gradient: clipping
  float decay = 0;           ///< factor on the parameter that the gradient gains: Adam's weight decay
  float shrink = 1;          ///< factor on the parameter: decoupled weight decay
  float beta1_rest = 0;      ///< 1 - beta1
  float beta2 = 0;           ///< factor on the second moment
  float beta2_rest = 0;      ///< 1 - beta2
  float step_size = 0;       ///< lr sqrt(1 - beta2^t) / (1 - beta1^t)
  float eps = 0;             ///< eps sqrt(1 - beta2^t)
  float average_weight = 0;  ///< 1 - decay of the EMA
};

/// The elements of one parameter.
struct AdamWPointers {
  float* param = nullptr;
  const float* grad = nullptr;
  float* exp_avg = nullptr;
  float* exp_avg_sq = nullptr;
  float* average = nullptr;  ///< null: no EMA
};

/// Steps the elements [begin, end) of a parameter, its moments and its average.
void adamw_step(const AdamWFactors& factors, const AdamWPointers& tensor, int64_t begin, int64_t end);
/// Moves the elements [begin, end) of an average towards the parameter. It rounds as `adamw_step` does.
void average_step(float weight, const float* param, float* average, int64_t begin, int64_t end);

// The two functions above call one of these, by the machine. The results have the same bits.
namespace avx2 {
void adamw_step(const AdamWFactors& factors, const AdamWPointers& tensor, int64_t begin, int64_t end);
void average_step(float weight, const float* param, float* average, int64_t begin, int64_t end);
}  // namespace avx2
namespace avx512 {
void adamw_step(const AdamWFactors& factors, const AdamWPointers& tensor, int64_t begin, int64_t end);
void average_step(float weight, const float* param, float* average, int64_t begin, int64_t end);
}  // namespace avx512

/// Repeats each pixel of the rows [begin, end) of `width` pixels in a square of 2 x 2 pixels.
void double_rows(int64_t width, const float* from, float* to, int64_t begin, int64_t end);

/// Computes rows [begin, end) of `width` sums of squares of 2 x 2 pixels.
void halve_rows(int64_t width, const float* from, float* to, int64_t begin, int64_t end);

/// Computes rows [begin, end) of hidden * gelu(gate). A row of x holds `features` values of hidden, then as
/// many of gate.
void geglu_forward(int64_t features, const float* x, float* y, int64_t begin, int64_t end);

/// Computes rows [begin, end) of the gradient of x.
void geglu_backward(int64_t features, const float* grad_y, const float* x, float* grad_x, int64_t begin,
                    int64_t end);

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
