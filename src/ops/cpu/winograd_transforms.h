#pragma once

// The one- and two-dimensional transforms of Winograd's F(2x2, 3x3) and F(4x4, 3x3) (Lavin and Gray 2016):
// y = A^T ((G g) * (B^T d)). F(2, 3) interpolates at 0, 1, -1 and infinity. F(4, 3) interpolates at 0, +-5/8,
// +-3/2 and infinity, whose rounding errors are smaller than those of 0, +-1, +-2 and infinity.

#include "ops/cpu/winograd_vectors.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

/// The transforms of F(kTile, 3). A tile has kSize = kTile + 2 points.
template <int kTile>
struct Winograd;

template <>
struct Winograd<2> {
  static constexpr int kSize = 4;

  /// B^T d
  static void input(const Lanes* d, Lanes* v) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[3] - d[1];
  }
  /// A^T m
  static void output(const Lanes* m, Lanes* y) {
    y[0] = m[0] + m[1] + m[2];
    y[1] = m[1] - m[2] + m[3];
  }
  /// G g
  static void weight(const Lanes* g, Lanes* u) {
    const Lanes even = 0.5F * (g[0] + g[2]);
    const Lanes odd = 0.5F * g[1];
    u[0] = g[0];
    u[1] = even + odd;
    u[2] = even - odd;
    u[3] = g[2];
  }
  /// A y, the transpose of output()
  static void output_gradient(const Lanes* y, Lanes* z) {
    z[0] = y[0];
    z[1] = y[0] + y[1];
    z[2] = y[0] - y[1];
    z[3] = y[1];
  }
  /// G^T u, the transpose of weight()
  static void weight_gradient(const Lanes* u, Lanes* g) {
    const Lanes even = 0.5F * (u[1] + u[2]);
    g[0] = u[0] + even;
    g[1] = 0.5F * (u[1] - u[2]);
    g[2] = u[3] + even;
  }
};

template <>
struct Winograd<4> {
  static constexpr int kSize = 6;
  static constexpr float kP = 0.625F;
  static constexpr float kQ = 1.5F;
  static constexpr float kP2 = kP * kP;
  static constexpr float kQ2 = kQ * kQ;
  // The products of the differences of the points: 1 / prod (a_i - a_j).
  static constexpr float kScale0 = static_cast<float>(1.0 / (0.390625 * 2.25));
  static constexpr float kScaleP = static_cast<float>(1.0 / (2 * 0.390625 * (0.390625 - 2.25)));
  static constexpr float kScaleQ = static_cast<float>(1.0 / (2 * 2.25 * (2.25 - 0.390625)));
  static constexpr float kScaleP1 = static_cast<float>(0.625 / (2 * 0.390625 * (0.390625 - 2.25)));
  static constexpr float kScaleQ1 = static_cast<float>(1.5 / (2 * 2.25 * (2.25 - 0.390625)));
  static constexpr float kScaleP2 = static_cast<float>(0.5 / (0.390625 - 2.25));
  static constexpr float kScaleQ2 = static_cast<float>(0.5 / (2.25 - 0.390625));

  static void input(const Lanes* d, Lanes* v) {
    v[0] = d[4] - (kP2 + kQ2) * d[2] + (kP2 * kQ2) * d[0];
    const Lanes even_p = d[4] - kQ2 * d[2];
    const Lanes odd_p = d[3] - kQ2 * d[1];
    v[1] = even_p + kP * odd_p;
    v[2] = even_p - kP * odd_p;
    const Lanes even_q = d[4] - kP2 * d[2];
    const Lanes odd_q = d[3] - kP2 * d[1];
    v[3] = even_q + kQ * odd_q;
    v[4] = even_q - kQ * odd_q;
    v[5] = d[5] - (kP2 + kQ2) * d[3] + (kP2 * kQ2) * d[1];
  }
  static void output(const Lanes* m, Lanes* y) {
    const Lanes sum_p = m[1] + m[2];
    const Lanes sum_q = m[3] + m[4];
    const Lanes difference_p = m[1] - m[2];
    const Lanes difference_q = m[3] - m[4];
    y[0] = m[0] + sum_p + sum_q;
    y[1] = kP * difference_p + kQ * difference_q;
    y[2] = kP2 * sum_p + kQ2 * sum_q;
    y[3] = (kP * kP2) * difference_p + (kQ * kQ2) * difference_q + m[5];
  }
  static void weight(const Lanes* g, Lanes* u) {
    const Lanes even_p = kScaleP * g[0] + kScaleP2 * g[2];
    const Lanes even_q = kScaleQ * g[0] + kScaleQ2 * g[2];
    u[0] = kScale0 * g[0];
    u[1] = even_p + kScaleP1 * g[1];
    u[2] = even_p - kScaleP1 * g[1];
    u[3] = even_q + kScaleQ1 * g[1];
    u[4] = even_q - kScaleQ1 * g[1];
    u[5] = g[2];
  }
  static void output_gradient(const Lanes* y, Lanes* z) {
    const Lanes even_p = y[0] + kP2 * y[2];
    const Lanes odd_p = kP * y[1] + (kP * kP2) * y[3];
    const Lanes even_q = y[0] + kQ2 * y[2];
    const Lanes odd_q = kQ * y[1] + (kQ * kQ2) * y[3];
    z[0] = y[0];
    z[1] = even_p + odd_p;
    z[2] = even_p - odd_p;
    z[3] = even_q + odd_q;
    z[4] = even_q - odd_q;
    z[5] = y[3];
  }
  static void weight_gradient(const Lanes* u, Lanes* g) {
    const Lanes sum_p = u[1] + u[2];
    const Lanes sum_q = u[3] + u[4];
    g[0] = kScale0 * u[0] + kScaleP * sum_p + kScaleQ * sum_q;
    g[1] = kScaleP1 * (u[1] - u[2]) + kScaleQ1 * (u[3] - u[4]);
    g[2] = kScaleP2 * sum_p + kScaleQ2 * sum_q + u[5];
  }
};

/// Transforms a kFrom x kFrom square into a kTo x kTo square: kStep along the columns, then along the rows.
/// `load(i, j)` returns element (i, j), `store(i, j, value)` receives it.
template <int kFrom, int kTo, auto kStep, class Load, class Store>
inline __attribute__((always_inline)) void transform_square(const Load& load, const Store& store) {
  Lanes half[kTo][kFrom];
#pragma GCC unroll 6
  for (int j = 0; j < kFrom; ++j) {
    Lanes column[kFrom];
    Lanes result[kTo];
#pragma GCC unroll 6
    for (int i = 0; i < kFrom; ++i) column[i] = load(i, j);
    kStep(column, result);
#pragma GCC unroll 6
    for (int i = 0; i < kTo; ++i) half[i][j] = result[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < kTo; ++i) {
    Lanes result[kTo];
    kStep(half[i], result);
#pragma GCC unroll 6
    for (int j = 0; j < kTo; ++j) store(i, j, result[j]);
  }
}

}  // namespace
}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
