#pragma once

// The arithmetic of the group norm kernels (Wu and He 2018), with and without SiLU. All numbers are float32.

#include <cmath>

#include "ops/cuda/work_split.h"

namespace diffusers {
inline namespace internal {
namespace cuda {

/// The order of x `[batch, channels, spatial]` in memory.
enum class Layout {
  kPlanar,        ///< contiguous
  kChannelsLast,  ///< `[batch, spatial, channels]` in memory
};

struct GroupNormShape {
  int64_t batch = 0;
  int64_t groups = 0;
  int64_t group_channels = 0;
  int64_t spatial = 0;

  DIFFUSERS_HOST_DEVICE int64_t channels() const { return groups * group_channels; }
  DIFFUSERS_HOST_DEVICE int64_t group_size() const { return group_channels * spatial; }
};

/// Count, mean and sum of squared deviations of some numbers.
struct Moments {
  float count = 0;
  float mean = 0;
  float squares = 0;
};

/// Combines the moments of two disjoint sets (Chan et al. 1979).
DIFFUSERS_HOST_DEVICE inline Moments merge(const Moments& a, const Moments& b) {
  const float count = a.count + b.count;
  if (count == 0) return {};
  const float share = b.count / count;
  const float difference = b.mean - a.mean;
  return {count, a.mean + difference * share,
          a.squares + b.squares + difference * difference * a.count * share};
}

/// Returns the moments of a vector.
template <int kVector>
DIFFUSERS_HOST_DEVICE Moments moments_of(const float (&values)[kVector]) {
  float sum = 0;
  for (int i = 0; i < kVector; ++i) sum += values[i];
  const float mean = sum / kVector;
  float squares = 0;
  for (int i = 0; i < kVector; ++i) squares += (values[i] - mean) * (values[i] - mean);
  return {static_cast<float>(kVector), mean, squares};
}

/// Sums over positions: sum dz x_hat (`product`) and sum dz (`grad`).
struct GradientSums {
  float product = 0;
  float grad = 0;
};

DIFFUSERS_HOST_DEVICE inline GradientSums merge(const GradientSums& a, const GradientSums& b) {
  return {a.product + b.product, a.grad + b.grad};
}

DIFFUSERS_HOST_DEVICE inline float sigmoid(float z) { return 1.0F / (1.0F + expf(-z)); }
DIFFUSERS_HOST_DEVICE inline float activate(float z, bool silu) { return silu ? z * sigmoid(z) : z; }

/// Returns the gradient of z from that of y = activate(z).
DIFFUSERS_HOST_DEVICE inline float activation_gradient(float grad_y, float z, bool silu) {
  if (!silu) return grad_y;
  const float s = sigmoid(z);
  return grad_y * s * (1.0F + z * (1.0F - s));
}

DIFFUSERS_HOST_DEVICE inline float reciprocal_deviation(const Moments& moments, float eps) {
  return 1.0F / sqrtf(moments.squares / moments.count + eps);
}

/// The numbers of one channel of one image.
struct ChannelNorm {
  float mean = 0;
  float rstd = 0;
  float weight = 1;
  float bias = 0;
  bool silu = false;

  DIFFUSERS_HOST_DEVICE float normalized(float x) const { return (x - mean) * rstd; }
  DIFFUSERS_HOST_DEVICE float output(float x) const { return activate(normalized(x) * weight + bias, silu); }
  /// Returns the gradient of z = x_hat weight + bias.
  DIFFUSERS_HOST_DEVICE float grad_z(float grad_y, float x) const {
    return activation_gradient(grad_y, normalized(x) * weight + bias, silu);
  }
  DIFFUSERS_HOST_DEVICE GradientSums sums(float grad_y, float x) const {
    const float dz = grad_z(grad_y, x);
    return {dz * normalized(x), dz};
  }
  /// dx = rstd (w dz - mean(w dz) - x_hat mean(w dz x_hat)), with means over the group.
  DIFFUSERS_HOST_DEVICE float grad_x(float grad_y, float x, const GradientSums& means) const {
    return rstd * (weight * grad_z(grad_y, x) - means.grad - normalized(x) * means.product);
  }
};

// Planar images. Forward, a line is a group of an image. Backward, a line is a channel of an image.

/// Returns the moments of a thread's elements of a block.
/// @param load load(i, values) reads the vector at element i of the line
DIFFUSERS_ANY_CALLER
template <int kVector, class Load>
DIFFUSERS_HOST_DEVICE Moments thread_moments(const WorkSplit& split, int64_t block, int thread, int threads,
                                             const Load& load) {
  Moments result;
  for_each_vector<kVector>(split, block, thread, threads, [&](int64_t i) {
    float values[kVector];
    load(i, values);
    result = merge(result, moments_of(values));
  });
  return result;
}

/// Returns the sums of a thread's elements of a block.
/// @param load load(i, grad_y, x) reads the vectors at element i of the line
DIFFUSERS_ANY_CALLER
template <int kVector, class Load>
DIFFUSERS_HOST_DEVICE GradientSums thread_sums(const WorkSplit& split, const ChannelNorm& norm, int64_t block,
                                               int thread, int threads, const Load& load) {
  GradientSums result;
  for_each_vector<kVector>(split, block, thread, threads, [&](int64_t i) {
    float grads[kVector];
    float values[kVector];
    load(i, grads, values);
    for (int k = 0; k < kVector; ++k) result = merge(result, norm.sums(grads[k], values[k]));
  });
  return result;
}

// Channels-last images. A line is an image, an element of it is a row: the channels of one position.

/// Computes the moments of each channel of a vector over a lane's rows, all of the same count.
/// @param load load(row, values) reads the vector of the row
DIFFUSERS_ANY_CALLER
template <int kVector, class Load>
DIFFUSERS_HOST_DEVICE void lane_moments(const WorkSplit& split, const RowGrid& grid, int64_t block, int lane,
                                        const Load& load, float (&mean)[kVector], float (&squares)[kVector]) {
  float count = 0;
  for (int k = 0; k < kVector; ++k) mean[k] = squares[k] = 0;
  for_each_row(split, grid, block, lane, [&](int64_t row) {
    float values[kVector];
    load(row, values);
    count += 1;
    const float share = 1.0F / count;
    for (int k = 0; k < kVector; ++k) {
      const float difference = values[k] - mean[k];
      mean[k] += difference * share;
      squares[k] += difference * (values[k] - mean[k]);
    }
  });
}

/// Computes the sums of each channel of a vector over a lane's rows.
DIFFUSERS_ANY_CALLER
template <int kVector, class Load>
DIFFUSERS_HOST_DEVICE void lane_sums(const WorkSplit& split, const RowGrid& grid,
                                     const ChannelNorm (&norms)[kVector], int64_t block, int lane,
                                     const Load& load, float (&product)[kVector], float (&grad)[kVector]) {
  for (int k = 0; k < kVector; ++k) product[k] = grad[k] = 0;
  for_each_row(split, grid, block, lane, [&](int64_t row) {
    float grads[kVector];
    float values[kVector];
    load(row, grads, values);
    for (int k = 0; k < kVector; ++k) {
      const GradientSums sums = norms[k].sums(grads[k], values[k]);
      product[k] += sums.product;
      grad[k] += sums.grad;
    }
  });
}

// The blocks write partial results, which one block for each group of an image combines.

/// Returns the place of the partial moments `part` of a group: planar, one for each part of the group;
/// channels-last, one for each part of the image and channel of the group.
DIFFUSERS_HOST_DEVICE inline int64_t moments_index(Layout layout, const GroupNormShape& shape,
                                                   const WorkSplit& split, int64_t item, int64_t part) {
  if (layout == Layout::kPlanar) return item * split.splits + part;
  const int64_t image = item / shape.groups;
  const int64_t channel = item % shape.groups * shape.group_channels + part % shape.group_channels;
  return (image * split.splits + part / shape.group_channels) * shape.channels() + channel;
}

/// Returns the number of partial moments of a group.
DIFFUSERS_HOST_DEVICE inline int64_t moments_parts(Layout layout, const GroupNormShape& shape,
                                                   const WorkSplit& split) {
  return layout == Layout::kPlanar ? split.splits : split.splits * shape.group_channels;
}

/// Returns the number of elements that partial moments count.
DIFFUSERS_HOST_DEVICE inline int64_t moments_count(Layout layout, const GroupNormShape& shape,
                                                   const WorkSplit& split, int64_t part) {
  return split.part_size(layout == Layout::kPlanar ? part : part / shape.group_channels);
}

/// Returns the place of the partial sums of a channel of an image.
DIFFUSERS_HOST_DEVICE inline int64_t sums_index(Layout layout, const GroupNormShape& shape,
                                                const WorkSplit& split, int64_t image, int64_t channel,
                                                int64_t part) {
  return layout == Layout::kPlanar ? (image * shape.channels() + channel) * split.splits + part
                                   : (image * split.splits + part) * shape.channels() + channel;
}

/// The division of the forward and of the backward kernels. Parts have at least 4,096 elements.
inline WorkSplit forward_split(Layout layout, const GroupNormShape& shape, int vector) {
  constexpr int64_t kLeastPart = 4096;
  if (layout == Layout::kPlanar)
    return split_work(shape.batch * shape.groups, shape.group_size(), kLeastPart, vector);
  return split_work(shape.batch, shape.spatial, divide_up(kLeastPart, shape.channels()), 1);
}

inline WorkSplit backward_split(Layout layout, const GroupNormShape& shape, int vector) {
  if (layout == Layout::kChannelsLast) return forward_split(layout, shape, vector);
  constexpr int64_t kLeastPart = 4096;
  return split_work(shape.batch * shape.channels(), shape.spatial, kLeastPart, vector);
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
