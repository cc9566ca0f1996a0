#pragma once

// Vectors of kWinogradLanes floats for the Winograd kernels, in the vector extension of GCC and Clang. Each
// source that includes this header defines DIFFUSERS_WINOGRAD_LANES, 8 for AVX2 or 16 for AVX-512, and is
// compiled for these instructions. For the reason in simd.h everything is in an anonymous namespace, and no
// inline functions of the standard library are used.

#include <cstdint>

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

inline constexpr int kWinogradLanes = DIFFUSERS_WINOGRAD_LANES;

using Lanes = float __attribute__((vector_size(DIFFUSERS_WINOGRAD_LANES * 4)));

inline Lanes load_lanes(const float* from) {
  Lanes value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

inline void store_lanes(float* to, const Lanes& value) { __builtin_memcpy(to, &value, sizeof value); }

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a < b ? b : a; }

template <int... kIndex>
struct Indices {};

template <int kCount, int... kIndex>
struct MakeIndices : MakeIndices<kCount - 1, kCount - 1, kIndex...> {};

template <int... kIndex>
struct MakeIndices<0, kIndex...> {
  using Type = Indices<kIndex...>;
};

/// Exchanges the blocks of kStep lanes off the diagonal of two rows.
template <int kStep, int... kIndex>
inline void exchange_blocks(Lanes& first, Lanes& second, Indices<kIndex...> /*lanes*/) {
  const Lanes a = first;
  const Lanes b = second;
  first =
      __builtin_shufflevector(a, b, ((kIndex & kStep) != 0 ? kIndex - kStep + kWinogradLanes : kIndex)...);
  second =
      __builtin_shufflevector(a, b, ((kIndex & kStep) != 0 ? kIndex + kWinogradLanes : kIndex + kStep)...);
}

template <int kStep>
inline void transpose_step(Lanes (&rows)[kWinogradLanes]) {
#pragma GCC unroll 16
  for (int i = 0; i < kWinogradLanes; ++i)
    if ((i & kStep) == 0)
      exchange_blocks<kStep>(rows[i], rows[i + kStep], typename MakeIndices<kWinogradLanes>::Type{});
}

/// Transposes a square of kWinogradLanes x kWinogradLanes floats.
inline void transpose(Lanes (&rows)[kWinogradLanes]) {
#if DIFFUSERS_WINOGRAD_LANES == 16
  transpose_step<8>(rows);
#endif
  transpose_step<4>(rows);
  transpose_step<2>(rows);
  transpose_step<1>(rows);
}

/// Loads the square whose row i is at `from + i * row_stride`, transposed: vector j holds column j. Only the
/// first `rows` rows and `columns` columns are read; the others are 0.
inline void load_transposed(const float* from, int64_t row_stride, int64_t rows, int64_t columns,
                            Lanes (&square)[kWinogradLanes]) {
  if (columns == kWinogradLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kWinogradLanes; ++i)
      square[i] = i < rows ? load_lanes(from + i * row_stride) : Lanes{};
  } else {
    float copy[kWinogradLanes * kWinogradLanes]{};
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) copy[i * kWinogradLanes + j] = from[i * row_stride + j];
    for (int i = 0; i < kWinogradLanes; ++i) square[i] = load_lanes(copy + i * kWinogradLanes);
  }
  transpose(square);
}

/// Moves the first `rows` rows and `columns` columns of the transposed square, whose row i is lane i of all
/// vectors, to `to + i * row_stride`. kAdd adds them to the values there.
template <bool kAdd>
inline void move_transposed(Lanes (&square)[kWinogradLanes], int64_t rows, int64_t columns, float* to,
                            int64_t row_stride) {
  transpose(square);
  if (columns == kWinogradLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kWinogradLanes; ++i)
      if (i < rows) {
        float* row = to + i * row_stride;
        store_lanes(row, kAdd ? load_lanes(row) + square[i] : square[i]);
      }
    return;
  }
  float copy[kWinogradLanes * kWinogradLanes];
  for (int i = 0; i < kWinogradLanes; ++i) store_lanes(copy + i * kWinogradLanes, square[i]);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      const float value = copy[i * kWinogradLanes + j];
      float& element = to[i * row_stride + j];
      element = kAdd ? element + value : value;
    }
}

inline void store_transposed(Lanes (&square)[kWinogradLanes], int64_t rows, int64_t columns, float* to,
                             int64_t row_stride) {
  move_transposed<false>(square, rows, columns, to, row_stride);
}

inline void add_transposed(Lanes (&square)[kWinogradLanes], int64_t rows, int64_t columns, float* to,
                           int64_t row_stride) {
  move_transposed<true>(square, rows, columns, to, row_stride);
}

}  // namespace
}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
