#pragma once

// Group norm for vectors of any length. The file of an instruction set includes this header. A sum has 32 (or
// 16) partial sums, for any length of the vectors.

#include "ops/cpu/kernels.h"
#include "ops/cpu/simd.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

/// Length of the pieces of a row that are summed in float lanes. The sums of the pieces are added in double.
inline constexpr int64_t kSumPiece = 4096;
inline constexpr int64_t kSumVectors = 32 / kLanes;
inline constexpr int64_t kGradientVectors = 16 / kLanes;

inline Vec add_all(const Vec (&sums)[4]) { return (sums[0] + sums[2]) + (sums[1] + sums[3]); }
inline Vec add_all(const Vec (&sums)[2]) { return sums[0] + sums[1]; }
inline Vec add_all(const Vec (&sums)[1]) { return sums[0]; }

/// Returns the sum of f(vector) over `count` floats.
template <class F>
double sum_of(const float* from, int64_t count, F f) {
  double total = 0;
  for (int64_t begin = 0; begin < count; begin += kSumPiece) {
    const float* piece = from + begin;
    const int64_t size = lesser(kSumPiece, count - begin);
    Vec sums[kSumVectors]{};
    int64_t i = 0;
    for (; i + kSumVectors * kLanes <= size; i += kSumVectors * kLanes)
      for (int64_t k = 0; k < kSumVectors; ++k) sums[k] += f(load(piece + i + k * kLanes));
    for (int64_t k = 0; k < kSumVectors; ++k, i += kLanes) {
      if (i + kLanes <= size) {
        sums[k] += f(load(piece + i));
      } else if (i < size) {
        sums[k] = select_some(sums[k] + f(load_some(piece + i, size - i)), sums[k], size - i);
      }
    }
    total += static_cast<double>(sum_lanes(add_all(sums)));
  }
  return total;
}

/// Stores f(vector) of `count` floats.
template <class F>
void map_row(const float* from, int64_t count, float* to, F f) {
  int64_t i = 0;
  for (; i + 2 * kLanes <= count; i += 2 * kLanes) {
    const Vec first = f(load(from + i));
    const Vec second = f(load(from + i + kLanes));
    store(to + i, first);
    store(to + i + kLanes, second);
  }
  if (i + kLanes <= count) {
    store(to + i, f(load(from + i)));
    i += kLanes;
  }
  if (i < count) store_some(to + i, f(load_some(from + i, count - i)), count - i);
}

/// 1 / (1 + e^-z)
inline Vec sigmoid(Vec z) { return 1.0F / (1.0F + exp2_vec(minimum(splat(126.0F), z * -kLog2E))); }

/// The affine map of one channel: z = x_hat * weight + bias with x_hat = (x - center) * rstd.
struct Affine {
  float center, scale, bias;
  Vec operator()(Vec x) const { return (x - center) * scale + bias; }
};

/// One group of one image.
struct Item {
  int64_t start;           ///< of its elements
  int64_t first_channel;   ///< of its weights and biases
  int64_t first_of_batch;  ///< of its values in [batch, channels]

  Item(const GroupNormShape& shape, const GroupNormParameters& parameters, int64_t item)
      : start(item * shape.group_channels * shape.spatial),
        first_channel(item / shape.groups * parameters.image_stride +
                      item % shape.groups * shape.group_channels),
        first_of_batch(item * shape.group_channels) {}
};

/// Returns the number that is subtracted from x in channel `c` of the item.
inline float center_of(const GroupNormParameters& parameters, const Item& item, int64_t c, float mean) {
  return parameters.offset == nullptr ? mean : mean - parameters.offset[item.first_of_batch + c];
}

inline void compute_statistics(const GroupNormShape& shape, const GroupNormParameters& parameters, double eps,
                               const Item& item, const float* group, float& mean, float& rstd) {
  const int64_t size = shape.group_channels * shape.spatial;
  double sum = sum_of(group, size, [](Vec v) { return v; });
  double squares = 0;
  const auto squares_of = [](const float* from, int64_t count, float center) {
    return sum_of(from, count, [center](Vec v) { return (v - center) * (v - center); });
  };
  if (parameters.offset == nullptr) {
    mean = static_cast<float>(sum / static_cast<double>(size));
    squares = squares_of(group, size, mean);
  } else {
    double offsets = 0;
    for (int64_t c = 0; c < shape.group_channels; ++c)
      offsets += static_cast<double>(parameters.offset[item.first_of_batch + c]);
    sum += offsets * static_cast<double>(shape.spatial);
    mean = static_cast<float>(sum / static_cast<double>(size));
    for (int64_t c = 0; c < shape.group_channels; ++c)
      squares += squares_of(group + c * shape.spatial, shape.spatial, center_of(parameters, item, c, mean));
  }
  rstd = static_cast<float>(1.0 / __builtin_sqrt(squares / static_cast<double>(size) + eps));
}

template <bool Silu>
void forward_items(const GroupNormShape& shape, const GroupNormParameters& parameters, double eps,
                   const float* x, float* y, const GroupNormStatistics& statistics, int64_t begin,
                   int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const Item item(shape, parameters, i);
    const float* group = x + item.start;
    float& mean = statistics.mean[i];
    float& rstd = statistics.rstd[i];
    if (!parameters.has_statistics) compute_statistics(shape, parameters, eps, item, group, mean, rstd);
    if (y == nullptr) continue;
    for (int64_t c = 0; c < shape.group_channels; ++c) {
      const Affine affine{center_of(parameters, item, c, mean),
                          rstd * parameters.weight[item.first_channel + c],
                          parameters.bias[item.first_channel + c]};
      map_row(group + c * shape.spatial, shape.spatial, y + item.start + c * shape.spatial, [&affine](Vec v) {
        const Vec z = affine(v);
        if constexpr (Silu) return z * sigmoid(z);
        return z;
      });
    }
  }
}

struct ChannelSums {
  double grad = 0;     ///< sum of dz
  double product = 0;  ///< sum of dz (x - center)
};

/// Returns the sums of one channel. With SiLU, stores dz = grad_y * silu'(z) in `to`; without, dz is grad_y.
template <bool Silu>
ChannelSums sum_channel(const float* grad, const float* from, const Affine& affine, int64_t count,
                        float* to) {
  const auto derivative = [&affine](Vec g, Vec v) {
    if constexpr (!Silu) return g;
    const Vec z = affine(v);
    const Vec s = sigmoid(z);
    return g * (s + z * s * (1.0F - s));
  };
  ChannelSums result;
  for (int64_t begin = 0; begin < count; begin += kSumPiece) {
    const int64_t stop = lesser(begin + kSumPiece, count);
    Vec grads[kGradientVectors]{};
    Vec products[kGradientVectors]{};
    int64_t i = begin;
    const auto add_whole = [&](int64_t at, int64_t k) {
      const Vec v = load(from + at);
      const Vec dz = derivative(load(grad + at), v);
      if constexpr (Silu) store(to + at, dz);
      grads[k] += dz;
      products[k] += dz * (v - affine.center);
    };
    for (; i + kGradientVectors * kLanes <= stop; i += kGradientVectors * kLanes)
      for (int64_t k = 0; k < kGradientVectors; ++k) add_whole(i + k * kLanes, k);
    for (int64_t k = 0; k < kGradientVectors; ++k, i += kLanes) {
      if (i + kLanes <= stop) {
        add_whole(i, k);
      } else if (i < stop) {
        const int64_t rest = stop - i;
        const Vec v = load_some(from + i, rest);
        const Vec dz = derivative(load_some(grad + i, rest), v);
        if constexpr (Silu) store_some(to + i, dz, rest);
        grads[k] = select_some(grads[k] + dz, grads[k], rest);
        products[k] = select_some(products[k] + dz * (v - affine.center), products[k], rest);
      }
    }
    result.grad += static_cast<double>(sum_lanes(add_all(grads)));
    result.product += static_cast<double>(sum_lanes(add_all(products)));
  }
  return result;
}

/// Stores dx = dz * scale - mean_grad - (x - center) * slope of one channel.
struct InputGradient {
  float center, scale, mean_grad, slope;
  Vec operator()(Vec dz, Vec x) const { return dz * scale - mean_grad - (x - center) * slope; }

  void store_channel(const float* dz, const float* from, int64_t count, float* to) const {
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(to + i, (*this)(load(dz + i), load(from + i)));
    const int64_t rest = count - i;
    if (rest > 0) store_some(to + i, (*this)(load_some(dz + i, rest), load_some(from + i, rest)), rest);
  }
};

template <bool Silu>
void backward_items(const GroupNormShape& shape, const GroupNormParameters& parameters, const float* grad_y,
                    const float* x, const GroupNormStatistics& statistics,
                    const GroupNormGradientViews& gradients, int64_t begin, int64_t end) {
  const auto size = static_cast<double>(shape.group_channels * shape.spatial);
  for (int64_t i = begin; i < end; ++i) {
    const Item item(shape, parameters, i);
    const float mean = statistics.mean[i];
    const float rstd = statistics.rstd[i];
    double sum_grad = 0;     // sum of dz * weight over the group
    double sum_product = 0;  // sum of dz * weight * x_hat over the group
    for (int64_t c = 0; c < shape.group_channels; ++c) {
      const float weight = parameters.weight[item.first_channel + c];
      const Affine affine{center_of(parameters, item, c, mean), rstd * weight,
                          parameters.bias[item.first_channel + c]};
      const int64_t at = item.start + c * shape.spatial;
      ChannelSums sums = sum_channel<Silu>(grad_y + at, x + at, affine, shape.spatial, gradients.x + at);
      sums.product *= static_cast<double>(rstd);
      gradients.bias[item.first_of_batch + c] = static_cast<float>(sums.grad);
      gradients.weight[item.first_of_batch + c] = static_cast<float>(sums.product);
      sum_grad += static_cast<double>(weight) * sums.grad;
      sum_product += static_cast<double>(weight) * sums.product;
    }
    // dx = rstd (w dz - mean(w dz) - x_hat mean(w dz x_hat)). With SiLU, gradients.x has dz.
    const float* dz = Silu ? gradients.x : grad_y;
    const auto mean_grad = static_cast<float>(sum_grad / size * static_cast<double>(rstd));
    const auto slope = static_cast<float>(sum_product / size * static_cast<double>(rstd * rstd));
    for (int64_t c = 0; c < shape.group_channels; ++c) {
      const InputGradient input{center_of(parameters, item, c, mean),
                                rstd * parameters.weight[item.first_channel + c], mean_grad, slope};
      const int64_t at = item.start + c * shape.spatial;
      input.store_channel(dz + at, x + at, shape.spatial, gradients.x + at);
      if (gradients.offset != nullptr)
        gradients.offset[item.first_of_batch + c] =
            static_cast<float>(sum_of(gradients.x + at, shape.spatial, [](Vec v) { return v; }));
    }
  }
}

inline void run_forward(const GroupNormShape& shape, const GroupNormParameters& parameters, double eps,
                        const float* x, float* y, const GroupNormStatistics& statistics, int64_t begin,
                        int64_t end) {
  const auto run = parameters.silu ? forward_items<true> : forward_items<false>;
  run(shape, parameters, eps, x, y, statistics, begin, end);
}

inline void run_backward(const GroupNormShape& shape, const GroupNormParameters& parameters,
                         const float* grad_y, const float* x, const GroupNormStatistics& statistics,
                         const GroupNormGradientViews& gradients, int64_t begin, int64_t end) {
  const auto run = parameters.silu ? backward_items<true> : backward_items<false>;
  run(shape, parameters, grad_y, x, statistics, gradients, begin, end);
}

}  // namespace
}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
