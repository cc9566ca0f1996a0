#pragma once

// The steps of the Winograd convolution for the instructions that the including source is compiled for.
// Vectors run along the channels: pixels are transposed from and to [channels, pixels] in squares.

#include "ops/cpu/winograd.h"
#include "ops/cpu/winograd_products.h"
#include "ops/cpu/winograd_transforms.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

/// Consecutive rows of tiles of one image. `first_tile` counts from the first tile of the rows of the call.
struct Strip {
  int64_t image, row_begin, row_end, first_tile;
};

template <class Run>
void for_each_strip(const WinogradShape& shape, WinogradRows rows, const Run& run) {
  const int64_t image_rows = shape.image_rows();
  for (int64_t row = rows.begin; row < rows.end;) {
    const int64_t image = row / image_rows;
    const int64_t in_image = row - image * image_rows;
    const int64_t last =
        smaller(smaller(in_image + shape.strip_rows(), image_rows), rows.end - image * image_rows);
    run(Strip{image, in_image, last, (row - rows.begin) * shape.columns()});
    row += last - in_image;
  }
}

/// Pixels in memory: `channels` planes of rows, of which [first, last) are read or written.
template <class T>
struct Pixels {
  T* data;  // the first channel
  int64_t channels, plane, width, first, last;
};

/// Calls `move(pixel of the range, count, address in the strip)` for each square of pixels. `strip` is the
/// address of the first pixel. Squares overlap if the number of pixels is not a multiple of a square's side.
template <class T, class Move>
inline void for_each_square(const Pixels<T>& pixels, const Move& move) {
  const int64_t count = (pixels.last - pixels.first) * pixels.width;
  for (int64_t begin = 0; begin < count; begin += kWinogradLanes) {
    const bool tail = count - begin < kWinogradLanes;
    const int64_t pixel = tail && count >= kWinogradLanes ? count - kWinogradLanes : begin;
    move(pixels.data + pixels.first * pixels.width + pixel, smaller(kWinogradLanes, count - pixel), pixel);
  }
}

/// Copies pixels to a strip with rows of `stride` floats and kWinogradLanes channels.
inline void load_pixels(const Pixels<const float>& pixels, float* strip, int64_t stride) {
  for_each_square(pixels, [&](const float* from, int64_t count, int64_t pixel) {
    Lanes square[kWinogradLanes];
    load_transposed(from, pixels.plane, pixels.channels, count, square);
    const int64_t row = pixel / pixels.width;
    int64_t column = pixel - row * pixels.width;
    float* to = strip + row * stride + column * kWinogradLanes;
    for (int64_t i = 0; i < count; ++i) {
      store_lanes(to, square[i]);
      to += kWinogradLanes;
      if (++column == pixels.width) {
        column = 0;
        to += stride - pixels.width * kWinogradLanes;
      }
    }
  });
}

inline void store_pixels(const Pixels<float>& pixels, const float* strip, int64_t stride) {
  for_each_square(pixels, [&](float* to, int64_t count, int64_t pixel) {
    Lanes square[kWinogradLanes]{};
    const int64_t row = pixel / pixels.width;
    int64_t column = pixel - row * pixels.width;
    const float* from = strip + row * stride + column * kWinogradLanes;
    for (int64_t i = 0; i < count; ++i) {
      square[i] = load_lanes(from);
      from += kWinogradLanes;
      if (++column == pixels.width) {
        column = 0;
        from += stride - pixels.width * kWinogradLanes;
      }
    }
    store_transposed(square, pixels.channels, count, to, pixels.plane);
  });
}

inline void clear(float* from, const float* to) {
  for (; from < to; from += kWinogradLanes) store_lanes(from, Lanes{});
}

/// Fills a strip with the tiles of channels [channel, channel + kWinogradLanes) of an image with `channels`
/// channels. `border` pixels (0 or 1) around the tiles are included; pixels outside the image are 0.
/// Returns the floats of a row of the strip.
inline int64_t load_strip(const WinogradShape& shape, const Strip& strip, const float* image,
                          int64_t channels, int64_t channel, int64_t border, float* to) {
  const int64_t stride = (shape.columns() * shape.tile + 2 * border) * kWinogradLanes;
  const int64_t top = strip.row_begin * shape.tile - border;
  const int64_t bottom = strip.row_end * shape.tile + border;
  const int64_t first = larger(top, 0);
  const int64_t last = smaller(bottom, shape.height);
  const int64_t plane = shape.height * shape.width;
  clear(to, to + (first - top) * stride);
  for (int64_t row = first - top; row < last - top; ++row) {
    clear(to + row * stride, to + row * stride + border * kWinogradLanes);
    clear(to + row * stride + (border + shape.width) * kWinogradLanes, to + (row + 1) * stride);
  }
  clear(to + (last - top) * stride, to + (bottom - top) * stride);
  const Pixels<const float> pixels{image + (strip.image * channels + channel) * plane,
                                   smaller(kWinogradLanes, channels - channel),
                                   plane,
                                   shape.width,
                                   first,
                                   last};
  load_pixels(pixels, to + (first - top) * stride + border * kWinogradLanes, stride);
  return stride;
}

/// Vectors in a panel: kWinogradPanel, or fewer in the last one.
inline int64_t panel_vectors(const WinogradShape& shape, int64_t panel) {
  return smaller(kWinogradPanel, shape.out_vectors() - panel * kWinogradPanel);
}

inline int64_t panel_channel(int64_t panel, int64_t vector) {
  return (panel * kWinogradPanel + vector) * kWinogradLanes;
}

/// Calls `run(tile, address of the tile in a strip)`.
template <int kTile, class Run>
inline void for_each_tile(const WinogradShape& shape, const Strip& strip, int64_t stride, const Run& run) {
  int64_t tile = strip.first_tile;
  for (int64_t row = 0; row < strip.row_end - strip.row_begin; ++row)
    for (int64_t column = 0; column < shape.columns(); ++column)
      run(tile++, row * kTile * stride + column * kTile * kWinogradLanes);
}

template <int kTile>
void transform_input(const WinogradShape& shape, const float* x, WinogradRows rows, int64_t first,
                     int64_t last, float* to, float* strip_memory) {
  constexpr int kSize = Winograd<kTile>::kSize;
  const int64_t tile_stride = shape.input_stride();
  const int64_t plane = shape.plane(rows.count() * shape.columns() * tile_stride);
  for_each_strip(shape, rows, [&](const Strip& strip) {
    for (int64_t vector = first; vector < last; ++vector) {
      const int64_t channel = vector * kWinogradLanes;
      const int64_t stride = load_strip(shape, strip, x, shape.in_channels, channel, 1, strip_memory);
      for_each_tile<kTile>(shape, strip, stride, [&](int64_t tile, int64_t offset) {
        const float* from = strip_memory + offset;
        float* point = to + tile * tile_stride + channel;
        transform_square<kSize, kSize, &Winograd<kTile>::input>(
            [&](int i, int j) { return load_lanes(from + i * stride + j * kWinogradLanes); },
            [&](int i, int j, const Lanes& value) { store_lanes(point + (i * kSize + j) * plane, value); });
      });
    }
  });
}

/// Transforms the gradient of one panel of outputs to rows of the panel's vectors.
template <int kTile>
void transform_gradient(const WinogradShape& shape, const float* grad_y, WinogradRows rows, int64_t panel,
                        float* to, float* strip_memory) {
  constexpr int kSize = Winograd<kTile>::kSize;
  const int64_t vectors = panel_vectors(shape, panel);
  const int64_t tile_stride = vectors * kWinogradLanes;
  const int64_t plane = shape.plane(rows.count() * shape.columns() * tile_stride);
  for_each_strip(shape, rows, [&](const Strip& strip) {
    for (int64_t vector = 0; vector < vectors; ++vector) {
      const int64_t stride =
          load_strip(shape, strip, grad_y, shape.out_channels, panel_channel(panel, vector), 0, strip_memory);
      for_each_tile<kTile>(shape, strip, stride, [&](int64_t tile, int64_t offset) {
        const float* from = strip_memory + offset;
        float* point = to + tile * tile_stride + vector * kWinogradLanes;
        transform_square<kTile, kSize, &Winograd<kTile>::output_gradient>(
            [&](int i, int j) { return load_lanes(from + i * stride + j * kWinogradLanes); },
            [&](int i, int j, const Lanes& value) { store_lanes(point + (i * kSize + j) * plane, value); });
      });
    }
  });
}

template <int kTile>
void transform_output(const WinogradShape& shape, const float* points, const float* bias, WinogradRows rows,
                      int64_t panel, float* y, float* strip_memory) {
  constexpr int kSize = Winograd<kTile>::kSize;
  const int64_t vectors = panel_vectors(shape, panel);
  const int64_t tile_stride = vectors * kWinogradLanes;
  const int64_t plane = shape.plane(rows.count() * shape.columns() * tile_stride);
  const int64_t pixel_plane = shape.height * shape.width;
  const int64_t stride = shape.columns() * kTile * kWinogradLanes;
  for_each_strip(shape, rows, [&](const Strip& strip) {
    for (int64_t vector = 0; vector < vectors; ++vector) {
      const int64_t channel = panel_channel(panel, vector);
      const int64_t channels = smaller(kWinogradLanes, shape.out_channels - channel);
      float biases[kWinogradLanes]{};
      if (bias != nullptr)
        for (int64_t i = 0; i < channels; ++i) biases[i] = bias[channel + i];
      const Lanes offset_value = load_lanes(biases);
      for_each_tile<kTile>(shape, strip, stride, [&](int64_t tile, int64_t offset) {
        const float* point = points + tile * tile_stride + vector * kWinogradLanes;
        float* to = strip_memory + offset;
        transform_square<kSize, kTile, &Winograd<kTile>::output>(
            [&](int i, int j) { return load_lanes(point + (i * kSize + j) * plane); },
            [&](int i, int j, const Lanes& value) {
              store_lanes(to + i * stride + j * kWinogradLanes, value + offset_value);
            });
      });
      const int64_t first = strip.row_begin * kTile;
      const int64_t last = smaller(strip.row_end * kTile, shape.height);
      store_pixels({y + (strip.image * shape.out_channels + channel) * pixel_plane, channels, pixel_plane,
                    shape.width, first, last},
                   strip_memory, stride);
    }
  });
}

inline constexpr int kFilter = 9;  // elements of a filter

/// Loads the filters of one input channel for a vector of output channels: element s is at `to[s]`.
inline void load_turned_filters(const WinogradShape& shape, const float* weight, int64_t in_channel,
                                int64_t channel, Lanes (&to)[kFilter]) {
  const int64_t rows = smaller(kWinogradLanes, shape.out_channels - channel);
  const int64_t first = in_channel * shape.out_channels + channel;
  const float* from = weight + first * kFilter;
  // A vector is longer than a filter if it has 16 lanes. Then only the last filters need care.
  const int64_t total = shape.in_channels * shape.out_channels * kFilter;
  const bool inside = (first + rows - 1) * kFilter + kWinogradLanes <= total;
  Lanes square[kWinogradLanes];
  load_transposed(from, kFilter, rows, inside ? kWinogradLanes : smaller(kFilter, kWinogradLanes), square);
  constexpr int64_t kFirst = kFilter < kWinogradLanes ? kFilter : kWinogradLanes;
  for (int64_t s = 0; s < kFirst; ++s) to[kFilter - 1 - s] = square[s];
  if (kWinogradLanes >= kFilter) return;
  load_transposed(from + kFilter - kWinogradLanes, kFilter, rows, kWinogradLanes, square);
  to[0] = square[kWinogradLanes - 1];
}

template <int kTile>
void transform_weight(const WinogradShape& shape, const float* weight, bool transposed, int64_t panel,
                      float* to) {
  constexpr int kSize = Winograd<kTile>::kSize;
  const int64_t vectors = panel_vectors(shape, panel);
  const int64_t stride = vectors * kWinogradLanes;
  const int64_t plane = shape.plane(shape.in_channels * stride);
  Lanes filters[kWinogradLanes * kFilter];
  for (int64_t vector = 0; vector < vectors; ++vector) {
    const int64_t channel = panel_channel(panel, vector);
    const int64_t rows = smaller(kWinogradLanes, shape.out_channels - channel);
    for (int64_t begin = 0; begin < shape.in_channels; begin += kWinogradLanes) {
      const int64_t count = smaller(kWinogradLanes, shape.in_channels - begin);
      if (transposed) {
        for (int64_t c = 0; c < count; ++c) {
          Lanes filter[kFilter];
          load_turned_filters(shape, weight, begin + c, channel, filter);
          for (int s = 0; s < kFilter; ++s) filters[c * kFilter + s] = filter[s];
        }
      } else {
        const int64_t row_stride = shape.in_channels * kFilter;
        for (int64_t e = 0; e < count * kFilter; e += kWinogradLanes) {
          Lanes square[kWinogradLanes];
          load_transposed(weight + channel * row_stride + begin * kFilter + e, row_stride, rows,
                          smaller(kWinogradLanes, count * kFilter - e), square);
#pragma GCC unroll 16
          for (int i = 0; i < kWinogradLanes; ++i) filters[e + i] = square[i];
        }
      }
      for (int64_t c = 0; c < count; ++c) {
        const Lanes* filter = filters + c * kFilter;
        float* point = to + (begin + c) * stride + vector * kWinogradLanes;
        transform_square<3, kSize, &Winograd<kTile>::weight>(
            [&](int i, int j) { return filter[i * 3 + j]; },
            [&](int i, int j, const Lanes& value) { store_lanes(point + (i * kSize + j) * plane, value); });
      }
    }
  }
}

template <int kTile>
void transform_weight_gradient(const WinogradShape& shape, const float* from, int64_t panel,
                               float* grad_weight) {
  constexpr int kSize = Winograd<kTile>::kSize;
  const int64_t vectors = panel_vectors(shape, panel);
  const int64_t stride = vectors * kWinogradLanes;
  const int64_t plane = shape.plane(shape.in_channels * stride);
  const int64_t row_stride = shape.in_channels * kFilter;
  Lanes filters[kWinogradLanes * kFilter];
  for (int64_t vector = 0; vector < vectors; ++vector) {
    const int64_t channel = panel_channel(panel, vector);
    const int64_t rows = smaller(kWinogradLanes, shape.out_channels - channel);
    for (int64_t begin = 0; begin < shape.in_channels; begin += kWinogradLanes) {
      const int64_t count = smaller(kWinogradLanes, shape.in_channels - begin);
      for (int64_t c = 0; c < count; ++c) {
        const float* point = from + (begin + c) * stride + vector * kWinogradLanes;
        Lanes* filter = filters + c * kFilter;
        transform_square<kSize, 3, &Winograd<kTile>::weight_gradient>(
            [&](int i, int j) { return load_lanes(point + (i * kSize + j) * plane); },
            [&](int i, int j, const Lanes& value) { filter[i * 3 + j] = value; });
      }
      for (int64_t e = 0; e < count * kFilter; e += kWinogradLanes) {
        const int64_t columns = smaller(kWinogradLanes, count * kFilter - e);
        Lanes square[kWinogradLanes]{};
        for (int64_t i = 0; i < columns; ++i) square[i] = filters[e + i];
        add_transposed(square, rows, columns, grad_weight + channel * row_stride + begin * kFilter + e,
                       row_stride);
      }
    }
  }
}

template <int kTile>
void convolve(const WinogradShape& shape, const float* input, const float* weight, const float* bias,
              WinogradRows rows, int64_t panel, float* y, float* points, float* strip) {
  const int64_t vectors = panel_vectors(shape, panel);
  const int64_t width = vectors * kWinogradLanes;
  const int64_t tiles = rows.count() * shape.columns();
  const int64_t input_stride = shape.input_stride();
  for (int64_t point = 0; point < shape.points(); ++point) {
    const float* left = input + point * shape.plane(tiles * input_stride);
    const float* right = weight + point * shape.plane(shape.in_channels * width);
    float* to = points + point * shape.plane(tiles * width);
    for (int64_t begin = 0; begin < shape.in_channels; begin += kProductDepth) {
      const int64_t depth = smaller(kProductDepth, shape.in_channels - begin);
      for_each_block(kPlainBlocks[vectors - 1], tiles, [&](ProductBlock block, int64_t tile) {
        block(left + tile * input_stride + begin, input_stride, right + begin * width, width, depth,
              to + tile * width, width, begin > 0);
      });
    }
  }
  transform_output<kTile>(shape, points, bias, rows, panel, y, strip);
}

template <int kTile>
void add_weight_gradient(const WinogradShape& shape, const float* input, const float* grad_y,
                         WinogradRows rows, int64_t panel, float* to, float* points, float* strip) {
  transform_gradient<kTile>(shape, grad_y, rows, panel, points, strip);
  const int64_t vectors = panel_vectors(shape, panel);
  const int64_t width = vectors * kWinogradLanes;
  const int64_t tiles = rows.count() * shape.columns();
  const int64_t input_stride = shape.input_stride();
  for (int64_t point = 0; point < shape.points(); ++point) {
    const float* left = input + point * shape.plane(tiles * input_stride);
    const float* right = points + point * shape.plane(tiles * width);
    float* sums = to + point * shape.plane(shape.in_channels * width);
    for_each_block(
        kTransposedBlocks[vectors - 1], shape.in_channels, [&](ProductBlock block, int64_t channel) {
          block(left + channel, input_stride, right, width, tiles, sums + channel * width, width, true);
        });
  }
}

/// Calls the function for the shape's tile.
template <auto kTwo, auto kFour, class... Arguments>
void for_tile(const WinogradShape& shape, Arguments... arguments) {
  return shape.tile == 2 ? kTwo(shape, arguments...) : kFour(shape, arguments...);
}

inline constexpr WinogradKernel kWinogradKernel{
    kWinogradLanes,
    for_tile<transform_weight<2>, transform_weight<4>>,
    for_tile<transform_input<2>, transform_input<4>>,
    for_tile<convolve<2>, convolve<4>>,
    for_tile<add_weight_gradient<2>, add_weight_gradient<4>>,
    for_tile<transform_weight_gradient<2>, transform_weight_gradient<4>>,
};

}  // namespace
}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
