#pragma once

// Products of float32 matrices on the CPU, with raw pointers and sizes. LibTorch's library for them (MKL)
// uses only AVX2 on AMD processors with AVX-512.
//
// A product is computed in blocks of rows that stay in registers, from panels of the right matrix that are
// copied into contiguous memory. Each element is the sum over pieces of the depth in a fixed order, so it
// does not depend on the number of threads.

#include <cstdint>

namespace diffusers {
inline namespace internal {
namespace cpu {

/// A matrix `[rows, columns]`, or its transpose in memory. One of the strides, in elements, is 1.
struct MatrixView {
  const float* data = nullptr;
  int64_t stride = 0;       ///< of the rows in memory
  bool transposed = false;  ///< the memory has the rows `[columns, rows]`
};

/// to = left right + biases, with left `[rows, depth]`, right `[depth, columns]` and to `[rows, columns]`.
struct MatrixProduct {
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t depth = 0;
  MatrixView left{}, right{};
  /// The product is the sum over so many pairs of matrices; the strides lead from one to the next.
  int64_t pairs = 1;
  int64_t left_step = 0;
  int64_t right_step = 0;
  const float* row_bias = nullptr;     ///< `[rows]`, or null
  const float* column_bias = nullptr;  ///< `[columns]`, or null
  /// Receives the sums of the rows of `left` over depth and pairs, `[rows]`; or null.
  float* row_sums = nullptr;
  float* to = nullptr;
  int64_t to_stride = 0;
};

/// A part of the rows and columns of a product. The columns begin at a multiple of the panel.
struct ProductPart {
  int64_t first_row = 0;
  int64_t end_row = 0;
  int64_t first_column = 0;
  int64_t end_column = 0;
};

/// The functions for one instruction set.
struct MatrixKernel {
  int64_t lanes;
  int64_t panel;   ///< columns of a panel
  int64_t memory;  ///< floats of memory that `multiply` needs, at a multiple of 64 bytes
  /// Computes a part of a product. The part with the first column computes `row_sums`.
  void (*multiply)(const MatrixProduct& product, const ProductPart& part, float* memory);
};

/// Returns the kernel of the best instructions of this machine with at most `max_lanes` lanes, or null.
const MatrixKernel* matrix_kernel(int64_t max_lanes = 16);

/// Returns true if the processor is AMD's. MKL uses AVX-512 only on Intel's.
bool is_amd_processor();

const MatrixKernel& matrix_kernel_avx2();
const MatrixKernel& matrix_kernel_avx512();

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
