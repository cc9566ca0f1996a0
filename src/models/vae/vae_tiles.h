#pragma once

#include <cstdint>
#include <functional>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

/// Sizes of the square tiles of an encoder or decoder.
struct TileSizes {
  int64_t input_size;     ///< side of an input tile
  int64_t output_size;    ///< side of an output tile
  double overlap_factor;  ///< overlap of neighbouring tiles, in [0, 1)
};

/// Runs `function` on overlapping tiles of `input` `[B, C, H, W]`, blends the overlaps linearly and joins the
/// results.
/// @throws ConfigError for sizes or an overlap that leave no tile
Tensor run_in_tiles(const Tensor& input, const TileSizes& sizes,
                    const std::function<Tensor(const Tensor&)>& function);

}  // namespace internal
}  // namespace diffusers
