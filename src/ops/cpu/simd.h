#pragma once

// Vectors of eight floats, in the vector extension of GCC and Clang. Only files that are compiled with -mavx2
// -mfma may include this header. Everything is in an anonymous namespace, and these files use no inline
// functions of the standard library: the linker could share a copy compiled for AVX2 with the rest of the
// program, which would crash on machines without AVX2.

#include <cstdint>

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

using Vec = float __attribute__((vector_size(32)));
using VecInt = int32_t __attribute__((vector_size(32)));
inline constexpr int64_t kLanes = 8;

// Vec{} + value would add 0 first.
inline Vec splat(float value) { return Vec{value, value, value, value, value, value, value, value}; }

inline Vec load(const float* from) {
  Vec value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

inline void store(float* to, Vec value) { __builtin_memcpy(to, &value, sizeof value); }

/// Loads the first `count` < 8 floats; the other lanes are 0.
inline Vec load_some(const float* from, int64_t count) {
  float lanes[kLanes]{};
  float* to = lanes;
  // Pieces of constant size, because the compiler would turn a loop into a call of memcpy.
  if ((count & 4) != 0) {
    __builtin_memcpy(to, from, 4 * sizeof(float));
    to += 4;
    from += 4;
  }
  if ((count & 2) != 0) {
    __builtin_memcpy(to, from, 2 * sizeof(float));
    to += 2;
    from += 2;
  }
  if ((count & 1) != 0) *to = *from;
  return load(lanes);
}

inline void store_some(float* to, Vec value, int64_t count) {
  float lanes[kLanes];
  store(lanes, value);
  const float* from = lanes;
  if ((count & 4) != 0) {
    __builtin_memcpy(to, from, 4 * sizeof(float));
    to += 4;
    from += 4;
  }
  if ((count & 2) != 0) {
    __builtin_memcpy(to, from, 2 * sizeof(float));
    to += 2;
    from += 2;
  }
  if ((count & 1) != 0) *to = *from;
}

/// Keeps the first `count` lanes and sets the others to 0, even if they are NaN.
inline Vec keep_some(Vec value, int64_t count) {
  constexpr VecInt kLane{0, 1, 2, 3, 4, 5, 6, 7};
  return kLane < static_cast<int32_t>(count) ? value : Vec{};
}

/// Returns the larger elements; `b` if either is NaN.
inline Vec maximum(Vec a, Vec b) { return a > b ? a : b; }
inline Vec minimum(Vec a, Vec b) { return a < b ? a : b; }

inline float sum_lanes(Vec v) { return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7])); }

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
