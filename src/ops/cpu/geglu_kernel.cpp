#include "ops/cpu/kernels.h"
#include "ops/cpu/simd.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

/// The distribution function of the normal distribution and its density.
struct Normal {
  Vec phi, density;
};

/// Computes both from one exponential: Phi(-|x|) = exp(-x^2 / 2) R(|x|). R is a polynomial in
/// 1 / (1 + c |x|) with the least relative error on [0, 14], 9e-8. The form is that of Abramowitz and Stegun
/// 1964, 26.2.17.
Normal normal(Vec x) {
  constexpr float kC = 0.305F;
  constexpr float kR[] = {0.121639736F,  0.12246678F, 0.10342112F, 0.12102082F,
                          -0.037975166F, 0.18571503F, -0.1529872F, 0.03669891F};
  constexpr float kHalfLog2E = 0.72134752F;
  constexpr float kDensityAtZero = 0.39894228F;
  const Vec magnitude = x < 0.0F ? -x : x;
  const Vec s = 1.0F / (1.0F + kC * magnitude);
  // exp2_vec does not go below 2^-126, which large x would multiply.
  const Vec exponential = magnitude < 13.0F ? exp2_vec(x * x * -kHalfLog2E) : Vec{};
  Vec ratio = splat(kR[7]);
  for (int k = 6; k >= 0; --k) ratio = ratio * s + kR[k];
  const Vec tail = exponential * (ratio * s);
  return {x < 0.0F ? tail : 1.0F - tail, exponential * kDensityAtZero};
}

Vec geglu(Vec hidden, Vec gate) { return hidden * (gate * normal(gate).phi); }

struct GegluGradient {
  Vec hidden, gate;
};

GegluGradient geglu_gradient(Vec grad, Vec hidden, Vec gate) {
  const Normal at = normal(gate);
  return {grad * (gate * at.phi), grad * hidden * (at.phi + gate * at.density)};
}

}  // namespace

void geglu_forward(int64_t features, const float* x, float* y, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* hidden = x + row * 2 * features;
    const float* gate = hidden + features;
    float* to = y + row * features;
    int64_t i = 0;
    for (; i + kLanes <= features; i += kLanes) store(to + i, geglu(load(hidden + i), load(gate + i)));
    const int64_t rest = features - i;
    if (rest > 0) store_some(to + i, geglu(load_some(hidden + i, rest), load_some(gate + i, rest)), rest);
  }
}

void geglu_backward(int64_t features, const float* grad_y, const float* x, float* grad_x, int64_t begin,
                    int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* grad = grad_y + row * features;
    const float* hidden = x + row * 2 * features;
    const float* gate = hidden + features;
    float* to_hidden = grad_x + row * 2 * features;
    float* to_gate = to_hidden + features;
    int64_t i = 0;
    for (; i + kLanes <= features; i += kLanes) {
      const auto result = geglu_gradient(load(grad + i), load(hidden + i), load(gate + i));
      store(to_hidden + i, result.hidden);
      store(to_gate + i, result.gate);
    }
    const int64_t rest = features - i;
    if (rest > 0) {
      const auto result =
          geglu_gradient(load_some(grad + i, rest), load_some(hidden + i, rest), load_some(gate + i, rest));
      store_some(to_hidden + i, result.hidden, rest);
      store_some(to_gate + i, result.gate, rest);
    }
  }
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
