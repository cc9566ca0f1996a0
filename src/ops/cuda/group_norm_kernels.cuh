#pragma once

// The kernels of group norm, for group_norm.cu. group_norm_math.h has their arithmetic.

#include "ops/cuda/device_arrays.cuh"
#include "ops/cuda/group_norm_math.h"

namespace diffusers {
inline namespace internal {
namespace cuda {

struct MergeMoments {
  __device__ Moments operator()(const Moments& a, const Moments& b) const { return merge(a, b); }
};
struct MergeSums {
  __device__ GradientSums operator()(const GradientSums& a, const GradientSums& b) const {
    return merge(a, b);
  }
};

/// Arguments of all kernels.
struct Context {
  Layout layout;
  GroupNormShape shape;
  WorkSplit split;
  bool silu;
  int64_t image_stride;  // of weight and bias
  float eps;
  const float* weight;
  const float* bias;
  float* mean;
  float* rstd;

  __device__ ChannelNorm channel(int64_t image, int64_t c) const {
    const int64_t group = image * shape.groups + c / shape.group_channels;
    const int64_t at = image * image_stride + c;
    return {mean[group], rstd[group], weight[at], bias[at], silu};
  }
};

/// Returns the moments of a group from its parts. All threads of the block must call it.
__device__ Moments group_moments(const Context& context, const float2* partial, int64_t item) {
  const int64_t parts = moments_parts(context.layout, context.shape, context.split);
  Moments result;
  for (int64_t part = threadIdx.x; part < parts; part += blockDim.x) {
    const float2 values = partial[moments_index(context.layout, context.shape, context.split, item, part)];
    const int64_t count = moments_count(context.layout, context.shape, context.split, part);
    result = merge(result, {static_cast<float>(count), values.x, values.y});
  }
  return combine_over_block(result, MergeMoments());
}

template <class T, int kVector>
__device__ Moments block_moments(const Context& context, const T* x, int64_t block) {
  const T* from = x + context.split.line(block) * context.split.length;
  const Moments own = thread_moments<kVector>(
      context.split, block, static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x),
      [from](int64_t i, float(&values)[kVector]) { load_vector(from + i, values); });
  return combine_over_block(own, MergeMoments());
}

template <class T, int kVector>
__global__ void __launch_bounds__(kMostThreads) planar_moments(Context context, const T* x, float2* partial) {
  for (int64_t block = blockIdx.x; block < context.split.blocks(); block += gridDim.x) {
    const Moments moments = block_moments<T, kVector>(context, x, block);
    if (threadIdx.x == 0) partial[block] = {moments.mean, moments.squares};
  }
}

/// @param partial null: each line is one part, whose moments the block computes itself
template <class T, int kVector>
__global__ void __launch_bounds__(kMostThreads)
    planar_output(Context context, const T* x, const float2* partial, T* y) {
  for (int64_t block = blockIdx.x; block < context.split.blocks(); block += gridDim.x) {
    const int64_t item = context.split.line(block);
    const Moments moments = partial == nullptr ? block_moments<T, kVector>(context, x, block)
                                               : group_moments(context, partial, item);
    const float rstd = reciprocal_deviation(moments, context.eps);
    if (threadIdx.x == 0 && context.split.begin(block) == 0) {
      context.mean[item] = moments.mean;
      context.rstd[item] = rstd;
    }
    const int64_t image = item / context.shape.groups;
    const int64_t first =
        image * context.image_stride + item % context.shape.groups * context.shape.group_channels;
    const auto spatial = static_cast<unsigned int>(context.shape.spatial);
    const T* from = x + item * context.split.length;
    T* to = y + item * context.split.length;
    for_each_vector<kVector>(
        context.split, block, static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x), [&](int64_t i) {
          // A group has fewer than 2^31 elements.
          const int64_t at = first + static_cast<unsigned int>(i) / spatial;
          const ChannelNorm norm{moments.mean, rstd, context.weight[at], context.bias[at], context.silu};
          float values[kVector];
          load_vector(from + i, values);
          for (int k = 0; k < kVector; ++k) values[k] = norm.output(values[k]);
          store_vector(to + i, values);
        });
  }
}

/// Writes the moments of each channel of a part of an image.
template <class T, int kVector>
__global__ void __launch_bounds__(kMostThreads) rows_moments(Context context, const T* x, float2* partial) {
  __shared__ float means[kMostThreads * kVector];
  __shared__ float squares[kMostThreads * kVector];
  const int64_t channels = context.shape.channels();
  const RowGrid grid(static_cast<int>(channels / kVector), static_cast<int>(blockDim.x));
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = grid.lane(thread);
  for (int64_t block = blockIdx.x; block < context.split.blocks(); block += gridDim.x) {
    const T* from = x + context.split.line(block) * context.split.length * channels;
    const int64_t rows = context.split.end(block) - context.split.begin(block);
    for (int first = 0; first < grid.columns; first += grid.width) {
      __syncthreads();
      if (grid.works(thread, first)) {
        const int64_t offset = int64_t{first + grid.column(thread)} * kVector;
        float mean[kVector];
        float square[kVector];
        lane_moments<kVector>(
            context.split, grid, block, lane,
            [&](int64_t row, float(&values)[kVector]) {
              load_vector(from + row * channels + offset, values);
            },
            mean, square);
        for (int k = 0; k < kVector; ++k) {
          means[(lane * grid.width + grid.column(thread)) * kVector + k] = mean[k];
          squares[(lane * grid.width + grid.column(thread)) * kVector + k] = square[k];
        }
      }
      __syncthreads();
      const int here = static_cast<int>(least(grid.width, grid.columns - first)) * kVector;
      for (int c = thread; c < here; c += static_cast<int>(blockDim.x)) {
        Moments moments;
        for (int l = 0; l < grid.lanes; ++l) {
          const int at = l * grid.width * kVector + c;
          moments = merge(moments, {static_cast<float>(grid.rows_of_lane(rows, l)), means[at], squares[at]});
        }
        partial[block * channels + int64_t{first} * kVector + c] = {moments.mean, moments.squares};
      }
    }
  }
}

/// Each block combines the moments of one group after another.
__global__ void __launch_bounds__(kMostThreads) finish_moments(Context context, const float2* partial) {
  for (int64_t item = blockIdx.x; item < context.shape.batch * context.shape.groups; item += gridDim.x) {
    const Moments moments = group_moments(context, partial, item);
    if (threadIdx.x != 0) continue;
    context.mean[item] = moments.mean;
    context.rstd[item] = reciprocal_deviation(moments, context.eps);
  }
}

template <class T, int kVector>
__global__ void __launch_bounds__(kMostThreads) rows_output(Context context, const T* x, T* y) {
  const int64_t channels = context.shape.channels();
  const RowGrid grid(static_cast<int>(channels / kVector), static_cast<int>(blockDim.x));
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t block = blockIdx.x; block < context.split.blocks(); block += gridDim.x) {
    const int64_t image = context.split.line(block);
    const int64_t start = image * context.split.length * channels;
    for (int first = 0; first < grid.columns; first += grid.width) {
      if (!grid.works(thread, first)) continue;
      const int64_t offset = int64_t{first + grid.column(thread)} * kVector;
      ChannelNorm norms[kVector];
      for (int k = 0; k < kVector; ++k) norms[k] = context.channel(image, offset + k);
      for_each_row(context.split, grid, block, grid.lane(thread), [&](int64_t row) {
        float values[kVector];
        load_vector(x + start + row * channels + offset, values);
        for (int k = 0; k < kVector; ++k) values[k] = norms[k].output(values[k]);
        store_vector(y + start + row * channels + offset, values);
      });
    }
  }
}

template <class T, int kVector>
__global__ void __launch_bounds__(kMostThreads)
    planar_sums(Context context, const T* grad_y, const T* x, float2* partial) {
  const int64_t channels = context.shape.channels();
  for (int64_t block = blockIdx.x; block < context.split.blocks(); block += gridDim.x) {
    const int64_t line = context.split.line(block);
    const int64_t start = line * context.split.length;
    const GradientSums own =
        thread_sums<kVector>(context.split, context.channel(line / channels, line % channels), block,
                             static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x),
                             [&](int64_t i, float(&grads)[kVector], float(&values)[kVector]) {
                               load_vector(grad_y + start + i, grads);
                               load_vector(x + start + i, values);
                             });
    const GradientSums sums = combine_over_block(own, MergeSums());
    if (threadIdx.x == 0) partial[block] = {sums.product, sums.grad};
  }
}

template <class T, int kVector>
__global__ void __launch_bounds__(kMostThreads)
    rows_sums(Context context, const T* grad_y, const T* x, float2* partial) {
  __shared__ float products[kMostThreads * kVector];
  __shared__ float gradients[kMostThreads * kVector];
  const int64_t channels = context.shape.channels();
  const RowGrid grid(static_cast<int>(channels / kVector), static_cast<int>(blockDim.x));
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = grid.lane(thread);
  for (int64_t block = blockIdx.x; block < context.split.blocks(); block += gridDim.x) {
    const int64_t image = context.split.line(block);
    const int64_t start = image * context.split.length * channels;
    for (int first = 0; first < grid.columns; first += grid.width) {
      __syncthreads();
      if (grid.works(thread, first)) {
        const int64_t offset = int64_t{first + grid.column(thread)} * kVector;
        ChannelNorm norms[kVector];
        for (int k = 0; k < kVector; ++k) norms[k] = context.channel(image, offset + k);
        float product[kVector];
        float grad[kVector];
        lane_sums<kVector>(
            context.split, grid, norms, block, lane,
            [&](int64_t row, float(&grads)[kVector], float(&values)[kVector]) {
              load_vector(grad_y + start + row * channels + offset, grads);
              load_vector(x + start + row * channels + offset, values);
            },
            product, grad);
        for (int k = 0; k < kVector; ++k) {
          products[(lane * grid.width + grid.column(thread)) * kVector + k] = product[k];
          gradients[(lane * grid.width + grid.column(thread)) * kVector + k] = grad[k];
        }
      }
      __syncthreads();
      const int here = static_cast<int>(least(grid.width, grid.columns - first)) * kVector;
      for (int c = thread; c < here; c += static_cast<int>(blockDim.x)) {
        GradientSums sums;
        for (int l = 0; l < grid.lanes; ++l) {
          const int at = l * grid.width * kVector + c;
          sums = merge(sums, {products[at], gradients[at]});
        }
        partial[block * channels + int64_t{first} * kVector + c] = {sums.product, sums.grad};
      }
    }
  }
}

/// Each block combines the sums of one group after another: those of each channel, and the means of
/// w dz x_hat and w dz over the group.
__global__ void __launch_bounds__(kMostThreads)
    finish_sums(Context context, const float2* partial, float2* channel_sums, float2* group_means) {
  const GroupNormShape& shape = context.shape;
  for (int64_t item = blockIdx.x; item < shape.batch * shape.groups; item += gridDim.x) {
    const int64_t image = item / shape.groups;
    GradientSums group;
    for (int64_t c = threadIdx.x; c < shape.group_channels; c += blockDim.x) {
      const int64_t channel = item % shape.groups * shape.group_channels + c;
      GradientSums sums;
      for (int64_t part = 0; part < context.split.splits; ++part) {
        const float2 values = partial[sums_index(context.layout, shape, context.split, image, channel, part)];
        sums = merge(sums, {values.x, values.y});
      }
      channel_sums[image * shape.channels() + channel] = {sums.product, sums.grad};
      const float weight = context.weight[image * context.image_stride + channel];
      group = merge(group, {weight * sums.product, weight * sums.grad});
    }
    group = combine_over_block(group, MergeSums());
    const float size = static_cast<float>(shape.group_size());
    if (threadIdx.x == 0) group_means[item] = {group.product / size, group.grad / size};
  }
}

template <class T, int kVector>
__global__ void __launch_bounds__(kMostThreads)
    planar_input(Context context, const T* grad_y, const T* x, const float2* group_means, T* grad_x) {
  const int64_t channels = context.shape.channels();
  for (int64_t block = blockIdx.x; block < context.split.blocks(); block += gridDim.x) {
    const int64_t line = context.split.line(block);
    const int64_t start = line * context.split.length;
    const ChannelNorm norm = context.channel(line / channels, line % channels);
    const float2 means = group_means[line / context.shape.group_channels];
    for_each_vector<kVector>(context.split, block, static_cast<int>(threadIdx.x),
                             static_cast<int>(blockDim.x), [&](int64_t i) {
                               float grads[kVector];
                               float values[kVector];
                               load_vector(grad_y + start + i, grads);
                               load_vector(x + start + i, values);
                               for (int k = 0; k < kVector; ++k)
                                 values[k] = norm.grad_x(grads[k], values[k], {means.x, means.y});
                               store_vector(grad_x + start + i, values);
                             });
  }
}

template <class T, int kVector>
__global__ void __launch_bounds__(kMostThreads)
    rows_input(Context context, const T* grad_y, const T* x, const float2* group_means, T* grad_x) {
  const int64_t channels = context.shape.channels();
  const RowGrid grid(static_cast<int>(channels / kVector), static_cast<int>(blockDim.x));
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t block = blockIdx.x; block < context.split.blocks(); block += gridDim.x) {
    const int64_t image = context.split.line(block);
    const int64_t start = image * context.split.length * channels;
    for (int first = 0; first < grid.columns; first += grid.width) {
      if (!grid.works(thread, first)) continue;
      const int64_t offset = int64_t{first + grid.column(thread)} * kVector;
      ChannelNorm norms[kVector];
      GradientSums means[kVector];
      for (int k = 0; k < kVector; ++k) {
        norms[k] = context.channel(image, offset + k);
        const float2 group =
            group_means[image * context.shape.groups + (offset + k) / context.shape.group_channels];
        means[k].product = group.x;
        means[k].grad = group.y;
      }
      for_each_row(context.split, grid, block, grid.lane(thread), [&](int64_t row) {
        const int64_t at = start + row * channels + offset;
        float grads[kVector];
        float values[kVector];
        load_vector(grad_y + at, grads);
        load_vector(x + at, values);
        for (int k = 0; k < kVector; ++k) values[k] = norms[k].grad_x(grads[k], values[k], means[k]);
        store_vector(grad_x + at, values);
      });
    }
  }
}

/// Each thread sums a channel over `images` images.
__global__ void __launch_bounds__(kMostThreads)
    parameter_gradients(int64_t outputs, int64_t images, const float2* channel_sums, float* grad_weight,
                        float* grad_bias) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t c = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; c < outputs; c += step) {
    GradientSums sums;
    for (int64_t image = 0; image < images; ++image) {
      const float2 values = channel_sums[image * outputs + c];
      sums = merge(sums, {values.x, values.y});
    }
    grad_weight[c] = sums.product;
    grad_bias[c] = sums.grad;
  }
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
