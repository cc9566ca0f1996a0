#pragma once

#include <cstdint>
#include <functional>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

/// Square tiles of an AutoencoderTiny's encoder or decoder.
struct WeightedTiles {
  const char* name;       ///< name of the setting `size`, for messages
  int64_t size;           ///< side of a tile of the input
  double overlap_factor;  ///< overlap of neighbouring tiles, in [0, 1)
  int64_t divisor = 1;    ///< side of the input divided by that of the result, which is rounded up
  int64_t factor = 1;     ///< side of the result divided by that of the input
};

/// Runs `function` on overlapping tiles of `input` `[B, C, H, W]`. Each result is blended into the results of
/// the tiles above and to the left, with weights that rise linearly from 0 to 1 over the overlap (diffusers
/// `AutoencoderTiny._tiled_encode`). An overlap of at most one element of the result is not blended.
/// @throws ConfigError for sizes or an overlap that leave no tile, and for a result that does not fit its
/// place
Tensor run_in_weighted_tiles(const Tensor& input, const WeightedTiles& tiles,
                             const std::function<Tensor(const Tensor&)>& function);

}  // namespace internal
}  // namespace diffusers
