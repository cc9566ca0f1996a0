#include "ops/cpu/kernels.h"
#include "ops/cpu/transpose_lanes.h"

namespace diffusers {
inline namespace internal {
namespace cpu {
namespace {

/// Part of a row-major matrix, at most 8 x 8.
struct Tile {
  const float* from;
  int64_t from_stride;
  int64_t rows;
  int64_t columns;
};

/// Stores the transposed tile. map(row, vector) is applied to each row, add(column, vector) to each column.
template <class Map, class Add>
void transpose_tile(const Tile& tile, float* to, int64_t to_stride, const Map& map, const Add& add) {
  Vec v[8]{};
  if (tile.rows == 8 && tile.columns == 8) {
    for (int64_t k = 0; k < 8; ++k) v[k] = map(k, load(tile.from + k * tile.from_stride));
    transpose_lanes(v);
    for (int64_t k = 0; k < 8; ++k) store(to + k * to_stride, add(k, v[k]));
    return;
  }
  for (int64_t k = 0; k < tile.rows; ++k) {
    const float* row = tile.from + k * tile.from_stride;
    v[k] = map(k, tile.columns == 8 ? load(row) : load_some(row, tile.columns));
  }
  transpose_lanes(v);
  for (int64_t k = 0; k < tile.columns; ++k) {
    if (tile.rows == 8) {
      store(to + k * to_stride, add(k, v[k]));
    } else {
      store_some(to + k * to_stride, add(k, v[k]), tile.rows);
    }
  }
}

/// Calls run(matrix, first, width) for the items.
template <class Run>
void for_each_block(int64_t columns, int64_t begin, int64_t end, const Run& run) {
  const int64_t blocks = (columns + kTransposeColumns - 1) / kTransposeColumns;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t first = item % blocks * kTransposeColumns;
    run(item / blocks, first, lesser(kTransposeColumns, columns - first));
  }
}

}  // namespace

void transpose(int64_t rows, int64_t columns, const float* from, const float* addend, float* to,
               int64_t begin, int64_t end) {
  for_each_block(columns, begin, end, [&](int64_t matrix, int64_t first, int64_t width) {
    const int64_t start = matrix * rows * columns;
    for (int64_t column = first; column < first + width; column += 8) {
      for (int64_t row = 0; row < rows; row += 8) {
        const Tile tile{from + start + row * columns + column, columns, lesser(8, rows - row),
                        lesser(8, first + width - column)};
        const int64_t target = start + column * rows + row;
        const auto same = [](int64_t, Vec v) { return v; };
        if (addend == nullptr) {
          transpose_tile(tile, to + target, rows, same, same);
        } else {
          transpose_tile(tile, to + target, rows, same, [&](int64_t k, Vec v) {
            const float* other = addend + target + k * rows;
            return v + (tile.rows == 8 ? load(other) : load_some(other, tile.rows));
          });
        }
      }
    }
  });
}

void normalize_transposed(const GroupNormShape& shape, const GroupNormParameters& parameters, const float* x,
                          const GroupNormStatistics& statistics, float* to, int64_t begin, int64_t end) {
  const int64_t channels = shape.groups * shape.group_channels;
  for_each_block(shape.spatial, begin, end, [&](int64_t image, int64_t first, int64_t width) {
    const int64_t start = image * channels * shape.spatial;
    const float* offsets = parameters.offset == nullptr ? nullptr : parameters.offset + image * channels;
    int64_t group = image * shape.groups;
    int64_t channel_of_group = 0;
    for (int64_t row = 0; row < channels; row += 8) {
      float center[8]{};
      float scale[8]{};
      float bias[8]{};
      const int64_t rows = lesser(8, channels - row);
      for (int64_t k = 0; k < rows; ++k) {
        const int64_t parameter = image * parameters.image_stride + row + k;
        center[k] = statistics.mean[group] - (offsets == nullptr ? 0.0F : offsets[row + k]);
        scale[k] = statistics.rstd[group] * parameters.weight[parameter];
        bias[k] = parameters.bias[parameter];
        if (++channel_of_group == shape.group_channels) {
          channel_of_group = 0;
          ++group;
        }
      }
      for (int64_t column = first; column < first + width; column += 8) {
        const Tile tile{x + start + row * shape.spatial + column, shape.spatial, rows,
                        lesser(8, first + width - column)};
        transpose_tile(
            tile, to + start + column * channels + row, channels,
            [&](int64_t k, Vec v) { return (v - center[k]) * scale[k] + bias[k]; },
            [](int64_t, Vec v) { return v; });
      }
    }
  });
}

}  // namespace cpu
}  // namespace internal
}  // namespace diffusers
