#include "models/vae/vae_tiles.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <torch/types.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

/// Blends the last `extent` rows (dim 2) or columns (dim 3) of the neighbour into the first ones of `tile`.
void blend_in(const Tensor& neighbour, const Tensor& tile, int64_t extent, int64_t dim) {
  extent = std::min({neighbour.size(dim), tile.size(dim), extent});
  if (extent <= 0) return;
  const auto dtype = tile.scalar_type();
  const auto own = torch::arange(extent, torch::kFloat64) / static_cast<double>(extent);
  const auto weigh = [&](const Tensor& part, const Tensor& weights) {
    // For half-precision types the weights are float32, like the scalars of Python's products.
    auto factors = weights.to(part.device(), dtype == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32);
    if (dim == 2) factors = factors.unsqueeze(1);
    return (part * factors).to(dtype);
  };
  const auto faded_out = weigh(neighbour.narrow(dim, neighbour.size(dim) - extent, extent), 1 - own);
  auto overlap = tile.narrow(dim, 0, extent);
  overlap.copy_(faded_out + weigh(overlap, own));
}

}  // namespace

Tensor run_in_tiles(const Tensor& input, const TileSizes& sizes,
                    const std::function<Tensor(const Tensor&)>& function) {
  require<ConfigError>(sizes.overlap_factor >= 0 && sizes.overlap_factor < 1,
                       "tile_overlap_factor is {}, expected a number in [0, 1)", sizes.overlap_factor);
  require<ConfigError>(sizes.input_size > 0 && sizes.output_size > 0,
                       "tiles of size {} that become tiles of size {}: tile_sample_min_size and "
                       "tile_latent_min_size must be positive",
                       sizes.input_size, sizes.output_size);
  const auto step = static_cast<int64_t>(static_cast<double>(sizes.input_size) * (1 - sizes.overlap_factor));
  const auto blend_extent =
      static_cast<int64_t>(static_cast<double>(sizes.output_size) * sizes.overlap_factor);
  const int64_t kept = sizes.output_size - blend_extent;
  require<ConfigError>(step > 0, "tiles of size {} with tile_overlap_factor {} leave no step between tiles",
                       sizes.input_size, sizes.overlap_factor);

  std::vector<Tensor> rows;
  std::vector<Tensor> above;
  for (int64_t y = 0; y < input.size(2); y += step) {
    std::vector<Tensor> tiles;
    std::vector<Tensor> parts;
    for (int64_t x = 0; x < input.size(3); x += step) {
      auto tile = function(input.slice(2, y, y + sizes.input_size).slice(3, x, x + sizes.input_size));
      if (!above.empty()) blend_in(above[tiles.size()], tile, blend_extent, 2);
      if (!tiles.empty()) blend_in(tiles.back(), tile, blend_extent, 3);
      parts.push_back(tile.slice(2, 0, kept).slice(3, 0, kept));
      tiles.push_back(std::move(tile));
    }
    rows.push_back(torch::cat(parts, 3));
    above = std::move(tiles);
  }
  return torch::cat(rows, 2);
}

}  // namespace internal
}  // namespace diffusers
