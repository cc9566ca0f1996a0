#include "ops/cpu/kernels.h"
#include "ops/cpu/simd.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

/// Length of the pieces of a row that are summed in float lanes. The sums of the pieces are added in double.
constexpr int64_t kSumPiece = 4096;

/// Returns the sum of f(vector) over `count` floats.
template <class F>
double sum_of(const float* from, int64_t count, F f) {
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kSumPiece) {
    const float* piece = from + begin;
    const int64_t size = lesser(kSumPiece, count - begin);
    Vec sums[4]{};
    int64_t i = 0;
    for (; i + 4 * kLanes <= size; i += 4 * kLanes)
      for (int64_t k = 0; k < 4; ++k) sums[k] += f(load(piece + i + k * kLanes));
    for (; i + kLanes <= size; i += kLanes) sums[0] += f(load(piece + i));
    if (i < size) sums[1] += keep_some(f(load_some(piece + i, size - i)), size - i);
    total += sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
  return total;
}

/// 1 / (1 + e^-z)
Vec sigmoid(Vec z) { return 1.0F / (1.0F + exp2_vec(minimum(splat(126.0F), z * -kLog2E))); }

/// The affine map of one channel: z = x_hat * weight + bias with x_hat = (x - mean) * rstd.
struct Affine {
  float mean, scale, bias;
  Vec operator()(Vec x) const { return (x - mean) * scale + bias; }
};

/// Stores dz = grad_y * silu'(z) of one channel in `to`, and adds to sum dz and sum dz (x - mean).
void silu_backward_channel(const float* grad, const float* from, const Affine& affine, int64_t count,
                           float* to, double& sum_grad, double& sum_product) {
  const auto derivative = [&affine](Vec g, Vec v) {
    const Vec z = affine(v);
    const Vec s = sigmoid(z);
    return g * (s + z * s * (1.0F - s));
  };
  for (int64_t begin = 0; begin < count; begin += kSumPiece) {
    const int64_t stop = lesser(begin + kSumPiece, count);
    Vec grads[2]{};
    Vec products[2]{};
    int64_t i = begin;
    for (; i + 2 * kLanes <= stop; i += 2 * kLanes) {
      for (int64_t k = 0; k < 2; ++k) {
        const Vec v = load(from + i + k * kLanes);
        const Vec dz = derivative(load(grad + i + k * kLanes), v);
        store(to + i + k * kLanes, dz);
        grads[k] += dz;
        products[k] += dz * (v - affine.mean);
      }
    }
    const auto add = [&](Vec dz, Vec v) {
      grads[0] += dz;
      products[0] += dz * (v - affine.mean);
    };
    if (i + kLanes <= stop) {
      const Vec v = load(from + i);
      const Vec dz = derivative(load(grad + i), v);
      store(to + i, dz);
      add(dz, v);
      i += kLanes;
    }
    if (i < stop) {
      const Vec v = load_some(from + i, stop - i);
      const Vec dz = keep_some(derivative(load_some(grad + i, stop - i), v), stop - i);
      store_some(to + i, dz, stop - i);
      add(dz, v);
    }
    sum_grad += static_cast<double>(sum_lanes(grads[0] + grads[1]));
    sum_product += static_cast<double>(sum_lanes(products[0] + products[1]));
  }
}

}  // namespace

void group_norm_silu_forward(const GroupNormShape& shape, double eps, const float* x, const float* weight,
                             const float* bias, float* y, float* mean, float* rstd, int64_t begin,
                             int64_t end) {
  const int64_t size = shape.group_channels * shape.spatial;
  for (int64_t item = begin; item < end; ++item) {
    const float* group = x + item * size;
    const double average = sum_of(group, size, [](Vec v) { return v; }) / static_cast<double>(size);
    const auto center = static_cast<float>(average);
    const auto square = [center](Vec v) { return (v - center) * (v - center); };
    const double variance = sum_of(group, size, square) / static_cast<double>(size);
    const auto inverse = static_cast<float>(1.0 / __builtin_sqrt(variance + eps));
    mean[item] = center;
    rstd[item] = inverse;

    const int64_t first_channel = item % shape.groups * shape.group_channels;
    for (int64_t c = 0; c < shape.group_channels; ++c) {
      const Affine affine{center, inverse * weight[first_channel + c], bias[first_channel + c]};
      const float* from = group + c * shape.spatial;
      float* to = y + item * size + c * shape.spatial;
      const auto activate = [&affine](Vec v) {
        const Vec z = affine(v);
        return z * sigmoid(z);
      };
      int64_t i = 0;
      for (; i + 2 * kLanes <= shape.spatial; i += 2 * kLanes) {
        const Vec first = activate(load(from + i));
        const Vec second = activate(load(from + i + kLanes));
        store(to + i, first);
        store(to + i + kLanes, second);
      }
      if (i + kLanes <= shape.spatial) {
        store(to + i, activate(load(from + i)));
        i += kLanes;
      }
      const int64_t rest = shape.spatial - i;
      if (rest > 0) store_some(to + i, activate(load_some(from + i, rest)), rest);
    }
  }
}

void group_norm_silu_backward(const GroupNormShape& shape, const float* grad_y, const float* x,
                              const float* weight, const float* bias, const float* mean, const float* rstd,
                              float* grad_x, float* grad_weight, float* grad_bias, int64_t begin,
                              int64_t end) {
  const int64_t size = shape.group_channels * shape.spatial;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t image = item / shape.groups;
    const int64_t first_channel = item % shape.groups * shape.group_channels;
    const int64_t channel_of_image = image * shape.groups * shape.group_channels + first_channel;
    const float center = mean[item];
    const float inverse = rstd[item];
    double sum_grad = 0;     // sum of dz * weight over the group
    double sum_product = 0;  // sum of dz * weight * x_hat over the group
    for (int64_t c = 0; c < shape.group_channels; ++c) {
      const float w = weight[first_channel + c];
      const Affine affine{center, inverse * w, bias[first_channel + c]};
      const int64_t offset = item * size + c * shape.spatial;
      double channel_grad = 0;
      double channel_product = 0;
      silu_backward_channel(grad_y + offset, x + offset, affine, shape.spatial, grad_x + offset, channel_grad,
                            channel_product);
      channel_product *= static_cast<double>(inverse);
      grad_bias[channel_of_image + c] = static_cast<float>(channel_grad);
      grad_weight[channel_of_image + c] = static_cast<float>(channel_product);
      sum_grad += static_cast<double>(w) * channel_grad;
      sum_product += static_cast<double>(w) * channel_product;
    }
    // dx = rstd (w dz - mean(w dz) - x_hat mean(w dz x_hat)). The loop above has stored dz in grad_x.
    const auto mean_grad =
        static_cast<float>(sum_grad / static_cast<double>(size) * static_cast<double>(inverse));
    const auto slope =
        static_cast<float>(sum_product / static_cast<double>(size) * static_cast<double>(inverse * inverse));
    for (int64_t c = 0; c < shape.group_channels; ++c) {
      const float scale = inverse * weight[first_channel + c];
      const float* from = x + item * size + c * shape.spatial;
      float* to = grad_x + item * size + c * shape.spatial;
      int64_t i = 0;
      for (; i + kLanes <= shape.spatial; i += kLanes)
        store(to + i, load(to + i) * scale - mean_grad - (load(from + i) - center) * slope);
      for (; i < shape.spatial; ++i) to[i] = to[i] * scale - mean_grad - (from[i] - center) * slope;
    }
  }
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
