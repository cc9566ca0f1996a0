#include "models/vae/weighted_tiles.h"

#include <algorithm>
#include <cmath>

#include <torch/types.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Part of a side of the input, and its place in the result.
struct TileSpan {
  int64_t begin, end;
  int64_t result_begin, result_end;
};

int64_t result_size(const WeightedTiles& tiles, int64_t size) {
  return (size * tiles.factor + tiles.divisor - 1) / tiles.divisor;
}

TileSpan tile_span(const WeightedTiles& tiles, int64_t begin, int64_t size) {
  const int64_t end = begin + tiles.size;
  return {.begin = begin,
          .end = std::min(end, size),
          .result_begin = begin * tiles.factor / tiles.divisor,
          .result_end = end >= size ? result_size(tiles, size) : end * tiles.factor / tiles.divisor};
}

/// Returns weights 0, ..., 1, 1, ... for `length` elements of a tile that overlaps the one before it by
/// `overlap` elements.
Tensor rising_weights(int64_t length, double overlap, const at::TensorOptions& options) {
  if (overlap <= 1) return torch::ones({length}, options);
  return (torch::arange(length, options) / (overlap - 1)).clamp(0, 1);
}

}  // namespace

Tensor run_in_weighted_tiles(const Tensor& input, const WeightedTiles& tiles,
                             const std::function<Tensor(const Tensor&)>& function) {
  require<ConfigError>(tiles.overlap_factor >= 0 && tiles.overlap_factor < 1,
                       "tile_overlap_factor is {}, expected a number in [0, 1)", tiles.overlap_factor);
  require<ConfigError>(tiles.size > 0, "{} is {}, must be positive", tiles.name, tiles.size);
  const auto blended = static_cast<int64_t>(static_cast<double>(tiles.size) * tiles.overlap_factor);
  const int64_t step = tiles.size - blended;
  const double overlap = static_cast<double>(blended * tiles.factor) / static_cast<double>(tiles.divisor);
  const int64_t height = input.size(2);
  const int64_t width = input.size(3);

  // The weights are float32 for half-precision types, too.
  const auto dtype = input.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto options = torch::TensorOptions().device(input.device()).dtype(dtype);
  const int64_t longest = result_size(tiles, std::min(tiles.size, std::max(height, width)));
  const auto rising = rising_weights(longest, overlap, options);
  const auto ones = torch::ones({longest}, options);

  Tensor result;
  at::ScalarType result_dtype = dtype;
  for (int64_t y = 0; y < height; y += step) {
    const auto row = tile_span(tiles, y, height);
    for (int64_t x = 0; x < width; x += step) {
      const auto column = tile_span(tiles, x, width);
      const auto tile = function(input.slice(2, row.begin, row.end).slice(3, column.begin, column.end));
      if (!result.defined()) {
        result_dtype = tile.scalar_type();
        result = torch::zeros(
            {input.size(0), tile.size(1), result_size(tiles, height), result_size(tiles, width)}, options);
      }
      auto place =
          result.slice(2, row.result_begin, row.result_end).slice(3, column.result_begin, column.result_end);
      require<ConfigError>(
          tile.sizes() == place.sizes(),
          "{} is {} and tile_overlap_factor {}: tiles of size {} with a step of {}, expected "
          "multiples of {}",
          tiles.name, tiles.size, tiles.overlap_factor, tiles.size, step, tiles.divisor);
      const auto vertical = (y == 0 ? ones : rising).slice(0, 0, tile.size(2)).unsqueeze(1);
      const auto horizontal = (x == 0 ? ones : rising).slice(0, 0, tile.size(3));
      const auto weights = vertical * horizontal;
      place.copy_(weights * tile + (1 - weights) * place);
    }
  }
  return result.to(result_dtype);
}

}  // namespace internal
}  // namespace diffusers
