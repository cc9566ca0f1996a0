#pragma once

// AdamW, Adam and EMA for vectors of any length. The file of an instruction set includes this header and is
// compiled without contraction, so that each operation below rounds as it is written: the bits of an element
// depend neither on its place in the tensor nor on the length of the vectors.

#include "ops/cpu/kernels.h"
#include "ops/cpu/simd.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

/// Returns a * b + c, rounded once.
inline Vec multiply_add(Vec a, Vec b, Vec c) {
#if defined(DIFFUSERS_AVX512)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

inline Vec square_root(Vec v) {
#if defined(DIFFUSERS_AVX512)
  return _mm512_maskz_sqrt_ps(0xFFFF, v);  // GCC 12 warns of the source that _mm512_sqrt_ps leaves undefined
#elif defined(__AVX2__)
  return _mm256_sqrt_ps(v);
#else
  for (int64_t k = 0; k < kLanes; ++k) v[k] = __builtin_sqrtf(v[k]);
  return v;
#endif
}

/// Moves a vector towards another by a weight, with the formula and the rounding of LibTorch's lerp.
class Interpolation {
 public:
  explicit Interpolation(float weight)
      : is_small_(weight < 0.5F && weight > -0.5F), factor_(splat(is_small_ ? weight : weight - 1)) {}
  Vec operator()(Vec from, Vec to) const { return multiply_add(factor_, to - from, is_small_ ? from : to); }

 private:
  bool is_small_;
  Vec factor_;
};

/// Loads and stores whole vectors.
struct WholeVectors {
  static Vec load(const float* from) { return cpu::load(from); }
  static void store(float* to, Vec value) { cpu::store(to, value); }
};

/// Loads and stores the first `count` < kLanes floats.
struct PartOfAVector {
  Vec load(const float* from) const { return load_some(from, count); }
  void store(float* to, Vec value) const { store_some(to, value, count); }
  int64_t count;
};

/// Calls f(i, access) for all vectors of the elements [begin, end); the last one may be a part.
template <class F>
void for_each_vector(int64_t begin, int64_t end, F f) {
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) f(i, WholeVectors());
  if (i < end) f(i, PartOfAVector{end - i});
}

/// @tparam kDecays the gradient gains the parameter (Adam's weight decay)
/// @tparam kAverages there is an average
template <bool kDecays, bool kAverages>
void step_elements(const AdamWFactors& factors, const AdamWPointers& tensor, int64_t begin, int64_t end) {
  const Vec grad_factor = splat(factors.grad_factor);
  const Vec decay = splat(factors.decay);
  const Vec shrink = splat(factors.shrink);
  const Vec beta2 = splat(factors.beta2);
  const Vec beta2_rest = splat(factors.beta2_rest);
  const Vec step_size = splat(factors.step_size);
  const Vec eps = splat(factors.eps);
  const Interpolation towards_gradient(factors.beta1_rest);
  const Interpolation towards_parameter(factors.average_weight);
  for_each_vector(begin, end, [&](int64_t i, auto access) {
    Vec param = access.load(tensor.param + i);
    Vec grad = access.load(tensor.grad + i) * grad_factor;
    if constexpr (kDecays) grad = multiply_add(decay, param, grad);
    const Vec exp_avg = towards_gradient(access.load(tensor.exp_avg + i), grad);
    const Vec exp_avg_sq = multiply_add(beta2, access.load(tensor.exp_avg_sq + i), beta2_rest * grad * grad);
    param = param * shrink - step_size * exp_avg / (square_root(exp_avg_sq) + eps);
    access.store(tensor.exp_avg + i, exp_avg);
    access.store(tensor.exp_avg_sq + i, exp_avg_sq);
    access.store(tensor.param + i, param);
    if constexpr (kAverages)
      access.store(tensor.average + i, towards_parameter(access.load(tensor.average + i), param));
  });
}

inline void run_adamw_step(const AdamWFactors& factors, const AdamWPointers& tensor, int64_t begin,
                           int64_t end) {
  if (factors.decay != 0) {
    tensor.average != nullptr ? step_elements<true, true>(factors, tensor, begin, end)
                              : step_elements<true, false>(factors, tensor, begin, end);
  } else {
    tensor.average != nullptr ? step_elements<false, true>(factors, tensor, begin, end)
                              : step_elements<false, false>(factors, tensor, begin, end);
  }
}

inline void run_average_step(float weight, const float* param, float* average, int64_t begin, int64_t end) {
  const Interpolation towards_parameter(weight);
  for_each_vector(begin, end, [&](int64_t i, auto access) {
    access.store(average + i, towards_parameter(access.load(average + i), access.load(param + i)));
  });
}

}  // namespace
}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
