#include "ops/cuda/group_norm.h"
#include "ops/cuda/group_norm_kernels.cuh"

namespace diffusers {
inline namespace internal {
namespace cuda {
namespace {

Context context_of(const GroupNormKernel& call, const WorkSplit& split) {
  return {call.layout, call.shape,  split,     call.silu, call.is_per_image ? call.shape.channels() : 0,
          call.eps,    call.weight, call.bias, call.mean, call.rstd};
}

int threads_of(const GroupNormKernel& call, const WorkSplit& split) {
  return call.layout == Layout::kChannelsLast ? kMostThreads : threads_for(split.part_length / call.vector);
}

template <class T, int kVector>
cudaError_t forward(const GroupNormKernel& call, void* y) {
  const WorkSplit split = forward_split(call.layout, call.shape, kVector);
  const Context context = context_of(call, split);
  const unsigned int blocks = grid_size(split.blocks());
  const int threads = threads_of(call, split);
  const auto* x = static_cast<const T*>(call.x);
  auto* to = static_cast<T*>(y);
  auto* partial = reinterpret_cast<float2*>(call.scratch);
  if (call.layout == Layout::kPlanar) {
    const bool is_one_part = split.splits == 1;
    if (!is_one_part) planar_moments<T, kVector><<<blocks, threads, 0, call.stream>>>(context, x, partial);
    planar_output<T, kVector>
        <<<blocks, threads, 0, call.stream>>>(context, x, is_one_part ? nullptr : partial, to);
  } else {
    rows_moments<T, kVector><<<blocks, threads, 0, call.stream>>>(context, x, partial);
    const int64_t parts = moments_parts(call.layout, call.shape, split);
    finish_moments<<<grid_size(call.shape.batch * call.shape.groups), threads_for(parts), 0, call.stream>>>(
        context, partial);
    rows_output<T, kVector><<<blocks, threads, 0, call.stream>>>(context, x, to);
  }
  return cudaGetLastError();
}

template <class T, int kVector>
cudaError_t backward(const GroupNormKernel& call, const void* grad_y, void* grad_x, float* grad_weight,
                     float* grad_bias) {
  const WorkSplit split = backward_split(call.layout, call.shape, kVector);
  const Context context = context_of(call, split);
  const unsigned int blocks = grid_size(split.blocks());
  const int threads = threads_of(call, split);
  const int64_t per_channel = call.shape.batch * call.shape.channels();
  const auto* x = static_cast<const T*>(call.x);
  const auto* grads = static_cast<const T*>(grad_y);
  auto* to = static_cast<T*>(grad_x);
  auto* partial = reinterpret_cast<float2*>(call.scratch);
  float2* channel_sums = partial + split.splits * per_channel;
  float2* group_means = channel_sums + per_channel;
  if (call.layout == Layout::kPlanar) {
    planar_sums<T, kVector><<<blocks, threads, 0, call.stream>>>(context, grads, x, partial);
  } else {
    rows_sums<T, kVector><<<blocks, threads, 0, call.stream>>>(context, grads, x, partial);
  }
  finish_sums<<<grid_size(call.shape.batch * call.shape.groups), threads_for(call.shape.group_channels), 0,
                call.stream>>>(context, partial, channel_sums, group_means);
  if (call.layout == Layout::kPlanar) {
    planar_input<T, kVector><<<blocks, threads, 0, call.stream>>>(context, grads, x, group_means, to);
  } else {
    rows_input<T, kVector><<<blocks, threads, 0, call.stream>>>(context, grads, x, group_means, to);
  }
  const int64_t outputs = call.is_per_image ? per_channel : call.shape.channels();
  parameter_gradients<<<grid_size(divide_up(outputs, kMostThreads)), kMostThreads, 0, call.stream>>>(
      outputs, call.is_per_image ? 1 : call.shape.batch, channel_sums, grad_weight, grad_bias);
  return cudaGetLastError();
}

/// Calls run with a value of the element's type and the number of elements of a load.
template <class T, class Run>
cudaError_t with_vector(int vector, const Run& run) {
  if (vector == 16 / static_cast<int>(sizeof(T))) return run.template operator()<T, 16 / sizeof(T)>();
  if (vector == 4) return run.template operator()<T, 4>();
  if (vector == 1) return run.template operator()<T, 1>();
  return cudaErrorInvalidValue;
}

template <class Run>
cudaError_t with_types(Element element, int vector, const Run& run) {
  switch (element) {
    case Element::kFloat:
      return with_vector<float>(vector, run);
    case Element::kHalf:
      return with_vector<__half>(vector, run);
    case Element::kBFloat16:
      return with_vector<__nv_bfloat16>(vector, run);
  }
  return cudaErrorInvalidValue;
}

struct Forward {
  const GroupNormKernel& call;
  void* y;

  template <class T, int kVector>
  cudaError_t operator()() const {
    return forward<T, kVector>(call, y);
  }
};

struct Backward {
  const GroupNormKernel& call;
  const void* grad_y;
  void* grad_x;
  float* grad_weight;
  float* grad_bias;

  template <class T, int kVector>
  cudaError_t operator()() const {
    return backward<T, kVector>(call, grad_y, grad_x, grad_weight, grad_bias);
  }
};

}  // namespace

cudaError_t group_norm_forward(const GroupNormKernel& call, void* y) {
  return with_types(call.element, call.vector, Forward{call, y});
}

cudaError_t group_norm_backward(const GroupNormKernel& call, const void* grad_y, void* grad_x,
                                float* grad_weight, float* grad_bias) {
  return with_types(call.element, call.vector, Backward{call, grad_y, grad_x, grad_weight, grad_bias});
}

}  // namespace cuda
}  // namespace internal
}  // namespace diffusers
