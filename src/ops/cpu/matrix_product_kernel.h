#pragma once

// The matrix products for vectors of any length. The file of an instruction set includes this header.

#include "ops/cpu/matrix_product.h"
#include "ops/cpu/simd.h"
#include "ops/cpu/winograd_vectors.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

static_assert(kLanes == kWinogradLanes);

/// Rows of the block that a product keeps in registers.
inline constexpr int kBlockRows = DIFFUSERS_WINOGRAD_LANES == 16 ? 12 : 6;
inline constexpr int64_t kPanel = 2 * kLanes;
inline constexpr int64_t kDepth = 256;         // depth of a piece
inline constexpr int64_t kPieceColumns = 512;  // columns of a piece of the right matrix
inline constexpr int64_t kPieceRows = 120;     // rows of a piece of a transposed left matrix

/// Where a block is stored, and what is added to it.
struct BlockResult {
  float* to;
  int64_t stride;
  int64_t columns;           ///< valid columns
  bool add;                  ///< adds to the values in `to`
  const float* row_bias;     ///< of the first row, or null
  const float* column_bias;  ///< of the first column, or null
};

template <int kRows, int kVectors>
inline void store_block(const Lanes (&sums)[kRows][kVectors], const BlockResult& result) {
  if (result.columns == kVectors * kLanes) {
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        float* to = result.to + i * result.stride + v * kLanes;
        Lanes sum = sums[i][v];
        if (result.add) sum += load_lanes(to);
        if (result.row_bias != nullptr) sum += result.row_bias[i];
        if (result.column_bias != nullptr) sum += load_lanes(result.column_bias + v * kLanes);
        store_lanes(to, sum);
      }
    return;
  }
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      const int64_t count = smaller(kLanes, result.columns - v * kLanes);
      if (count <= 0) continue;
      const auto load_valid = [count](const float* from) {
        return count == kLanes ? load(from) : load_some(from, count);
      };
      float* to = result.to + i * result.stride + v * kLanes;
      Lanes sum = sums[i][v];
      if (result.add) sum += load_valid(to);
      if (result.row_bias != nullptr) sum += result.row_bias[i];
      if (result.column_bias != nullptr) sum += load_valid(result.column_bias + v * kLanes);
      if (count == kLanes) {
        store(to, sum);
      } else {
        store_some(to, sum, count);
      }
    }
}

/// A block from rows of `left` in memory.
template <int kRows, int kVectors>
void multiply_rows(const float* a, int64_t a_stride, const float* b, int64_t depth,
                   const BlockResult& result) {
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
    for (int v = 0; v < kVectors; ++v) right[v] = load_lanes(b + v * kLanes);
    b += kVectors * kLanes;
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
  store_block(sums, result);
}

/// A block from packed columns: kBlockRows floats for each k.
template <int kRows, int kVectors>
void multiply_packed(const float* a, int64_t /*a_stride*/, const float* b, int64_t depth,
                     const BlockResult& result) {
  Lanes sums[kRows][kVectors]{};
  for (int64_t k = 0; k < depth; ++k) {
    Lanes right[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) right[v] = load_lanes(b + v * kLanes);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[i][v] += a[i] * right[v];
    a += kBlockRows;
    b += kVectors * kLanes;
  }
  store_block(sums, result);
}

using MultiplyBlock = void (*)(const float*, int64_t, const float*, int64_t, const BlockResult&);

/// The functions for 1 to kBlockRows rows.
struct MultiplyBlocks {
  MultiplyBlock block[kBlockRows];
};

template <int kVectors, int... kIndex>
constexpr MultiplyBlocks blocks_of_rows(Indices<kIndex...> /*rows*/) {
  return {{&multiply_rows<kIndex + 1, kVectors>...}};
}

template <int kVectors, int... kIndex>
constexpr MultiplyBlocks packed_blocks(Indices<kIndex...> /*rows*/) {
  return {{&multiply_packed<kIndex + 1, kVectors>...}};
}

using BlockIndices = typename MakeIndices<kBlockRows>::Type;
inline constexpr MultiplyBlocks kMultiplyRows[] = {blocks_of_rows<1>(BlockIndices{}),
                                                   blocks_of_rows<2>(BlockIndices{})};
inline constexpr MultiplyBlocks kMultiplyPacked[] = {packed_blocks<1>(BlockIndices{}),
                                                     packed_blocks<2>(BlockIndices{})};

/// Copies `columns` columns of the right matrix, `depth` rows, into a panel of `width` floats for each row.
/// The columns behind are 0.
inline void pack_panel(const MatrixView& right, const float* data, int64_t first_k, int64_t depth,
                       int64_t first_column, int64_t columns, int64_t width, float* to) {
  if (!right.transposed) {
    const float* from = data + first_k * right.stride + first_column;
    for (int64_t k = 0; k < depth; ++k, from += right.stride, to += width) {
      for (int64_t j = 0; j < width; j += kLanes) {
        const int64_t count = smaller(kLanes, columns - j);
        store(to + j, count == kLanes ? load(from + j) : count > 0 ? load_some(from + j, count) : Vec{});
      }
    }
    return;
  }
  for (int64_t j = 0; j < width; j += kLanes) {
    const int64_t valid = larger(0, smaller(kLanes, columns - j));
    const float* from = data + (first_column + j) * right.stride + first_k;
    for (int64_t k = 0; k < depth; k += kLanes) {
      const int64_t count = smaller(kLanes, depth - k);
      Lanes square[kWinogradLanes];
      load_transposed(from + k, right.stride, valid, count, square);
#pragma GCC unroll 16
      for (int i = 0; i < kWinogradLanes; ++i)
        if (i < count) store_lanes(to + (k + i) * width + j, square[i]);
    }
  }
}

using Four = float __attribute__((vector_size(16)));
inline constexpr int kFours = kBlockRows / 4;

/// Copies kBlockRows floats.
inline void copy_block_row(const float* from, float* to) {
  __builtin_memcpy(to, from, kBlockRows * sizeof(float));
}

/// Copies `rows` (at most kBlockRows) columns of a transposed left matrix, as kBlockRows floats for each k.
/// The floats behind the columns are not used.
/// @param has_more  true if the memory of the matrix continues behind the last row for kBlockRows floats
inline void pack_block(const float* from, int64_t stride, int64_t rows, int64_t depth, bool has_more,
                       float* to) {
  const int64_t whole = rows == kBlockRows || has_more ? depth : stride < kBlockRows ? 0 : depth - 1;
  for (int64_t k = 0; k < whole; ++k) copy_block_row(from + k * stride, to + k * kBlockRows);
  for (int64_t k = whole; k < depth; ++k)
    for (int64_t i = 0; i < rows; ++i) to[k * kBlockRows + i] = from[k * stride + i];
}

/// Adds the sums of the columns of a packed block.
inline void add_sums(const float* packed, int64_t rows, int64_t depth, float* sums) {
  Four fours[kFours]{};
  float rest[2]{};
  for (int64_t k = 0; k < depth; ++k, packed += kBlockRows) {
#pragma GCC unroll 3
    for (int v = 0; v < kFours; ++v) {
      Four four;
      __builtin_memcpy(&four, packed + 4 * v, sizeof four);
      fours[v] += four;
    }
    if constexpr (kBlockRows % 4 != 0) {
      rest[0] += packed[4 * kFours];
      rest[1] += packed[4 * kFours + 1];
    }
  }
  for (int64_t i = 0; i < rows; ++i) sums[i] += i < 4 * kFours ? fours[i / 4][i % 4] : rest[i - 4 * kFours];
}

/// Adds the sums of rows to `sums`.
inline void add_row_sums(const float* from, int64_t stride, int64_t rows, int64_t depth, float* sums) {
  for (int64_t row = 0; row < rows; ++row, from += stride) {
    Vec sum{};
    int64_t k = 0;
    for (; k + kLanes <= depth; k += kLanes) sum += load(from + k);
    if (k < depth) sum += load_some(from + k, depth - k);
    sums[row] += sum_lanes(sum);
  }
}

/// Calls `run(rows, first row, number)` for blocks of nearly equal numbers of rows.
template <class Run>
inline void for_row_blocks(int64_t rows, const Run& run) {
  const int64_t count = (rows + kBlockRows - 1) / kBlockRows;
  int64_t row = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t end = rows * (i + 1) / count;
    run(end - row, row, i);
    row = end;
  }
}

/// One piece of the depth of one pair.
struct Piece {
  const float* left;
  const float* right;
  int64_t first_k;
  int64_t depth;
  bool is_first;
};

/// Multiplies the packed panels of the columns [first, end) with rows [first_row, end_row).
inline void multiply_piece(const MatrixProduct& product, const Piece& piece, int64_t first_row,
                           int64_t end_row, int64_t first, int64_t end, const float* panels, float* packed,
                           bool sums_rows) {
  const MatrixView& left = product.left;
  if (left.transposed) {
    for_row_blocks(end_row - first_row, [&](int64_t rows, int64_t row, int64_t number) {
      const int64_t at = first_row + row;
      float* to = packed + number * kBlockRows * kDepth;
      const bool has_more = at + kBlockRows <= product.rows ||
                            (piece.first_k + piece.depth < product.depth && left.stride >= kBlockRows);
      pack_block(piece.left + piece.first_k * left.stride + at, left.stride, rows, piece.depth, has_more, to);
      if (sums_rows) add_sums(to, rows, piece.depth, product.row_sums + at);
    });
  }
  if (sums_rows && !left.transposed)
    add_row_sums(piece.left + first_row * left.stride + piece.first_k, left.stride, end_row - first_row,
                 piece.depth, product.row_sums + first_row);
  for (int64_t column = first; column < end; column += kPanel) {
    const int64_t columns = smaller(kPanel, end - column);
    const int vectors = columns > kLanes ? 2 : 1;
    const float* panel = panels + (column - first) * kDepth;
    BlockResult result{.to = nullptr,
                       .stride = product.to_stride,
                       .columns = columns,
                       .add = !piece.is_first,
                       .row_bias = nullptr,
                       .column_bias = nullptr};
    if (piece.is_first && product.column_bias != nullptr) result.column_bias = product.column_bias + column;
    for_row_blocks(end_row - first_row, [&](int64_t rows, int64_t row, int64_t number) {
      result.to = product.to + (first_row + row) * product.to_stride + column;
      if (piece.is_first && product.row_bias != nullptr) result.row_bias = product.row_bias + first_row + row;
      if (left.transposed) {
        kMultiplyPacked[vectors - 1].block[rows - 1](packed + number * kBlockRows * kDepth, 0, panel,
                                                     piece.depth, result);
      } else {
        kMultiplyRows[vectors - 1].block[rows - 1](
            piece.left + (first_row + row) * left.stride + piece.first_k, left.stride, panel, piece.depth,
            result);
      }
    });
  }
}

inline void multiply(const MatrixProduct& product, const ProductPart& part, float* memory) {
  float* panels = memory;
  float* packed = memory + kDepth * kPieceColumns;
  const bool sums_rows = product.row_sums != nullptr && part.first_column == 0;
  if (sums_rows)
    for (int64_t row = part.first_row; row < part.end_row; ++row) product.row_sums[row] = 0.0F;
  for (int64_t first = part.first_column; first < part.end_column; first += kPieceColumns) {
    const int64_t end = smaller(first + kPieceColumns, part.end_column);
    for (int64_t pair = 0; pair < product.pairs; ++pair) {
      for (int64_t k = 0; k < product.depth; k += kDepth) {
        const Piece piece{.left = product.left.data + pair * product.left_step,
                          .right = product.right.data + pair * product.right_step,
                          .first_k = k,
                          .depth = smaller(kDepth, product.depth - k),
                          .is_first = pair == 0 && k == 0};
        for (int64_t column = first; column < end; column += kPanel) {
          const int64_t columns = smaller(kPanel, end - column);
          pack_panel(product.right, piece.right, k, piece.depth, column, columns,
                     columns > kLanes ? kPanel : kLanes, panels + (column - first) * kDepth);
        }
        for (int64_t row = part.first_row; row < part.end_row; row += kPieceRows)
          multiply_piece(product, piece, row, smaller(row + kPieceRows, part.end_row), first, end, panels,
                         packed, sums_rows && first == part.first_column);
      }
    }
  }
}

inline constexpr MatrixKernel kMatrixKernel{.lanes = kLanes,
                                            .panel = kPanel,
                                            .memory = kDepth * (kPieceColumns + kPieceRows + kBlockRows),
                                            .multiply = multiply};

}  // namespace
}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
