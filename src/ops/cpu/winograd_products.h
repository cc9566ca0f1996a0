#pragma once

// The matrix products of the Winograd kernels. A panel has kVectors (1 or 2) vectors of columns.

#include "ops/cpu/winograd_vectors.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

/// Rows of the block that a product keeps in registers.
inline constexpr int kProductRows = DIFFUSERS_WINOGRAD_LANES == 16 ? 12 : 6;

/// Longest sum of one product. Longer sums are added block by block, which keeps the rounding error small.
inline constexpr int64_t kProductDepth = 256;

/// Stores the sums in c, or adds them to c.
template <int kRows, int kVectors>
inline void finish_block(const Lanes (&sums)[kRows][kVectors], float* c, int64_t c_stride, bool add) {
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + i * c_stride + v * kWinogradLanes;
      store_lanes(to, add ? load_lanes(to) + sums[i][v] : sums[i][v]);
    }
}

/// c = a b, or c += a b, for kRows rows: a has rows of `depth` floats, b rows of kVectors vectors.
template <int kRows, int kVectors>
void product_block(const float* a, int64_t a_stride, const float* b, int64_t b_stride, int64_t depth,
                   float* c, int64_t c_stride, bool add) {
  Lanes sums[kRows][kVectors]{};
  // Three rows for each pointer: the registers for addresses suffice.
  constexpr int kPointers = (kRows + 2) / 3;
  const float* rows[kPointers];
#pragma GCC unroll 4
  for (int i = 0; i < kPointers; ++i) rows[i] = a + 3 * i * a_stride;
  const int64_t twice = 2 * a_stride;
  for (int64_t k = 0; k < depth; ++k) {
    Lanes right[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) right[v] = load_lanes(b + v * kWinogradLanes);
    b += b_stride;
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      const float left = i % 3 == 0   ? rows[i / 3][0]
                         : i % 3 == 1 ? rows[i / 3][a_stride]
                                      : rows[i / 3][twice];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[i][v] += left * right[v];
    }
#pragma GCC unroll 4
    for (int i = 0; i < kPointers; ++i) ++rows[i];
  }
  finish_block(sums, c, c_stride, add);
}

/// c = a^T b, or c += a^T b, for kRows columns of a: both have `depth` rows.
template <int kRows, int kVectors>
void transposed_product_block(const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                              int64_t depth, float* c, int64_t c_stride, bool add) {
  Lanes sums[kRows][kVectors]{};
  for (int64_t k = 0; k < depth; ++k) {
    Lanes right[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) right[v] = load_lanes(b + v * kWinogradLanes);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[i][v] += a[i] * right[v];
    a += a_stride;
    b += b_stride;
  }
  finish_block(sums, c, c_stride, add);
}

using ProductBlock = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t, bool);

/// The functions for 1 to kProductRows rows.
struct ProductBlocks {
  ProductBlock block[kProductRows];
};

template <int kVectors, int... kIndex>
constexpr ProductBlocks plain_blocks(Indices<kIndex...> /*rows*/) {
  return {{&product_block<kIndex + 1, kVectors>...}};
}

template <int kVectors, int... kIndex>
constexpr ProductBlocks transposed_blocks(Indices<kIndex...> /*rows*/) {
  return {{&transposed_product_block<kIndex + 1, kVectors>...}};
}

using RowIndices = typename MakeIndices<kProductRows>::Type;
inline constexpr ProductBlocks kPlainBlocks[] = {plain_blocks<1>(RowIndices{}),
                                                 plain_blocks<2>(RowIndices{})};
inline constexpr ProductBlocks kTransposedBlocks[] = {transposed_blocks<1>(RowIndices{}),
                                                      transposed_blocks<2>(RowIndices{})};

/// Calls `run(block, first row)` for blocks of nearly equal numbers of rows.
template <class Run>
void for_each_block(const ProductBlocks& blocks, int64_t rows, const Run& run) {
  const int64_t count = (rows + kProductRows - 1) / kProductRows;
  int64_t row = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t end = rows * (i + 1) / count;
    run(blocks.block[end - row - 1], row);
    row = end;
  }
}

}  // namespace
}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
