#pragma once

// Vectors of eight floats, or of sixteen in a file that defines DIFFUSERS_AVX512 before, in the vector
// extension of GCC and Clang. Only kernel files, which are compiled for AVX2 or AVX-512, may include this
// header. Everything is in an anonymous namespace, and these files use no inline functions of the standard
// library: the linker could share a copy compiled for AVX2 with the rest of the program, which would crash on
// machines without AVX2.

#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

using Eight = float __attribute__((vector_size(32)));

// Vec{} + value would add 0 first.
#if defined(DIFFUSERS_AVX512)
using Vec = float __attribute__((vector_size(64)));
using VecInt = int32_t __attribute__((vector_size(64)));
inline constexpr int64_t kLanes = 16;
inline constexpr VecInt kLane{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
inline Vec splat(float v) { return Vec{v, v, v, v, v, v, v, v, v, v, v, v, v, v, v, v}; }
#else
using Vec = float __attribute__((vector_size(32)));
using VecInt = int32_t __attribute__((vector_size(32)));
inline constexpr int64_t kLanes = 8;
inline constexpr VecInt kLane{0, 1, 2, 3, 4, 5, 6, 7};
inline Vec splat(float v) { return Vec{v, v, v, v, v, v, v, v}; }
#endif

inline Vec load(const float* from) {
  Vec value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

inline void store(float* to, Vec value) { __builtin_memcpy(to, &value, sizeof value); }

inline Eight load_eight(const float* from) {
  Eight value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

inline void store_eight(float* to, Eight value) { __builtin_memcpy(to, &value, sizeof value); }

/// Loads the first `count` < kLanes floats and reads no memory behind them; the other lanes are 0.
inline Vec load_some(const float* from, int64_t count) {
#if defined(DIFFUSERS_AVX512)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1U << count) - 1), from);
#elif defined(__AVX2__)
  const VecInt mask = kLane < static_cast<int32_t>(count);
  __m256i bits;
  __builtin_memcpy(&bits, &mask, sizeof bits);
  return _mm256_maskload_ps(from, bits);
#else
  Vec value{};
  for (int64_t k = 0; k < count; ++k) value[k] = from[k];
  return value;
#endif
}

/// Stores the first `count` < kLanes floats.
inline void store_some(float* to, Vec value, int64_t count) {
#if defined(DIFFUSERS_AVX512)
  _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1U << count) - 1), value);
#elif defined(__AVX2__)
  const VecInt mask = kLane < static_cast<int32_t>(count);
  __m256i bits;
  __builtin_memcpy(&bits, &mask, sizeof bits);
  _mm256_maskstore_ps(to, bits, value);
#else
  for (int64_t k = 0; k < count; ++k) to[k] = value[k];
#endif
}

/// Returns the first `count` lanes of `value` and the other lanes of `others`.
inline Vec select_some(Vec value, Vec others, int64_t count) {
  return kLane < static_cast<int32_t>(count) ? value : others;
}

/// Returns the larger elements; `b` if either is NaN.
inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }
inline Vec minimum(Vec a, Vec b) { return a < b ? a : b; }

inline float sum_eight(Eight v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

inline float sum_lanes(Vec v) {
#if defined(DIFFUSERS_AVX512)
  return sum_eight(__builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                   __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
#else
  return sum_eight(v);
#endif
}

inline constexpr float kExp2[] = {1.0F,           0.693147182F,   0.240226462F,   0.0555032901F,
                                  0.00961851981F, 0.00133998599F, 0.000153375775F};

inline constexpr float kLog2E = 1.44269504F;

/// Computes 2^x within 2 ulp for x in [-126, 127], and 2^-126 below. NaN stays NaN. x must not be above 127.
inline Vec exp2_vec(Vec x) {
  x = maximum(splat(-126.0F), x);
  // Adding 1.5 * 2^23 puts round(x) into the low bits. Adding 127 makes them the exponent of 2^round(x).
  constexpr float kMagic = 12582912.0F + 127.0F;
  const Vec shifted = x + kMagic;
  const Vec fraction = x - (shifted - kMagic);
  VecInt bits;
  __builtin_memcpy(&bits, &shifted, sizeof bits);
  bits <<= 23;
  Vec power;
  __builtin_memcpy(&power, &bits, sizeof power);
  // Polynomial with the least relative error on [-1/2, 1/2].
  Vec polynomial = splat(kExp2[6]);
  for (int k = 5; k >= 0; --k) polynomial = polynomial * fraction + kExp2[k];
  return polynomial * power;
}

inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace
}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
