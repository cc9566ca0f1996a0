#pragma once

// Winograd convolution on the CPU: 3x3, stride 1, padding 1, contiguous float32, with raw pointers and sizes.
// The image is cut into tiles of 2x2 or 4x4 outputs. Each tile of the input becomes 16 or 36 points, and each
// point is one matrix product over the channels.
//
// Tiles are numbered image by image and row by row, so that the tiles of several small images share the
// matrix products. A "row" below is a row of tiles of one image. A panel is kWinogradPanel vectors of output
// channels.

#include <cstdint>

namespace diffusers {
inline namespace internal {
namespace cpu {

// Functions of this header are inlined everywhere: the linker could otherwise share a copy that was compiled
// for AVX-512 with the rest of the program.
#define DIFFUSERS_INLINE [[gnu::always_inline]] inline

inline constexpr int64_t kWinogradPanel = 2;
inline constexpr int64_t kStripFloats = 8192;  // floats of transposed pixels: they fit the first-level cache

/// A convolution from `in_channels` to `out_channels`.
struct WinogradShape {
  int64_t tile = 4;   ///< outputs along a side of a tile: 2 or 4
  int64_t lanes = 0;  ///< floats in a vector of the kernel
  int64_t batch = 0;
  int64_t in_channels = 0;
  int64_t out_channels = 0;
  int64_t height = 0;
  int64_t width = 0;

  DIFFUSERS_INLINE int64_t points() const { return (tile + 2) * (tile + 2); }
  DIFFUSERS_INLINE int64_t image_rows() const { return (height + tile - 1) / tile; }
  DIFFUSERS_INLINE int64_t columns() const { return (width + tile - 1) / tile; }
  DIFFUSERS_INLINE int64_t rows() const { return batch * image_rows(); }
  DIFFUSERS_INLINE int64_t in_vectors() const { return (in_channels + lanes - 1) / lanes; }
  DIFFUSERS_INLINE int64_t out_vectors() const { return (out_channels + lanes - 1) / lanes; }
  DIFFUSERS_INLINE int64_t panels() const { return (out_vectors() + kWinogradPanel - 1) / kWinogradPanel; }

  /// Returns the distance between the points of a matrix of `size` floats. It is one cache line more than a
  /// multiple of 4 KiB: the points of one tile would otherwise share a set of the cache.
  DIFFUSERS_INLINE int64_t plane(int64_t size) const { return (size + 1023) / 1024 * 1024 + 16; }
  /// Returns the distance between two tiles in a transformed input.
  DIFFUSERS_INLINE int64_t input_stride() const {
    const int64_t stride = in_vectors() * lanes;
    return stride % 256 == 0 ? stride + 16 : stride;
  }
  /// Returns the size of the transformed input of `row_count` rows.
  DIFFUSERS_INLINE int64_t input_size(int64_t row_count) const {
    return points() * plane(row_count * columns() * input_stride());
  }
  /// Returns the size of the points of one panel of `row_count` rows of outputs.
  DIFFUSERS_INLINE int64_t output_size(int64_t row_count) const {
    return points() * plane(row_count * columns() * kWinogradPanel * lanes);
  }
  /// Returns the size of one panel of transformed weights, or of their gradient.
  DIFFUSERS_INLINE int64_t weight_size() const {
    return points() * plane(in_channels * kWinogradPanel * lanes);
  }
  /// Returns the rows of tiles whose pixels are transposed at a time.
  DIFFUSERS_INLINE int64_t strip_rows() const {
    const int64_t fitting = (kStripFloats / (lanes * (columns() * tile + 2)) - 2) / tile;
    return fitting < 1 ? 1 : fitting < image_rows() ? fitting : image_rows();
  }
  /// Returns the size of the scratch memory for these pixels.
  DIFFUSERS_INLINE int64_t strip_size() const {
    return (strip_rows() * tile + 2) * (columns() * tile + 2) * lanes;
  }
};

/// A part of the rows of tiles.
struct WinogradRows {
  int64_t begin = 0;
  int64_t end = 0;
  DIFFUSERS_INLINE int64_t count() const { return end - begin; }
};

/// The steps of the convolution. x is `[batch, in_channels, height, width]`, y and its gradient `[batch,
/// out_channels, height, width]`. A weight is `[out_channels, in_channels, 3, 3]`.
struct WinogradKernel {
  int64_t lanes = 0;

  /// Transforms the weights of one panel. `transposed` reads `[in_channels, out_channels, 3, 3]` and turns
  /// the filters by 180 degrees, for the gradient of the input.
  void (*transform_weight)(const WinogradShape& shape, const float* weight, bool transposed, int64_t panel,
                           float* to);
  /// Transforms the input channels of the vectors [first, last).
  void (*transform_input)(const WinogradShape& shape, const float* x, WinogradRows rows, int64_t first,
                          int64_t last, float* to, float* strip);
  /// Computes the output channels of one panel from a transformed input and weight. `bias` may be null.
  /// `points` has output_size(rows.count()) floats.
  void (*convolve)(const WinogradShape& shape, const float* input, const float* weight, const float* bias,
                   WinogradRows rows, int64_t panel, float* y, float* points, float* strip);
  /// Adds the share of the rows to the gradient of one panel of the transformed weights.
  void (*add_weight_gradient)(const WinogradShape& shape, const float* input, const float* grad_y,
                              WinogradRows rows, int64_t panel, float* to, float* points, float* strip);
  /// Adds the gradients of the weights of one panel to grad_weight, from their transformed gradient.
  void (*transform_weight_gradient)(const WinogradShape& shape, const float* from, int64_t panel,
                                    float* grad_weight);
};

/// Returns the kernel of the best instructions of this machine with at most `max_lanes` lanes, or null.
const WinogradKernel* winograd_kernel(int64_t max_lanes = 16);

const WinogradKernel& winograd_kernel_avx2();
const WinogradKernel& winograd_kernel_avx512();

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
