#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>

namespace diffusers {

/// Options of `pyramid_noise`.
struct PyramidNoiseOptions {
  int64_t iterations = 6;  ///< maximum number of levels, 1 or more
  double discount = 0.4;   ///< ratio of the strengths of successive levels, 0 to 1
};

/// Adds noise of lower resolutions to noise, which gives low frequencies more weight (Whitaker 2023,
/// "Multi-resolution noise for diffusion model training"). Level i = 0, 1, ... adds discount^i times noise
/// whose height and width are divided by r^i, and which is interpolated to the size of `noise`. r is drawn
/// from [2, 4) for each level. The levels end after `iterations`, or after the first level with a height or
/// width of 1.
///
/// On a CUDA device, r is computed from the seed and the offset of the generator, which the host knows.
/// Nothing is read from the device.
/// @param noise `[B, C, H, W]`, floating
/// @param options number and strength of the levels
/// @param generator source of the random numbers, on the device of `noise`; none: the global one
/// @return the sum, divided by its standard deviation over the whole tensor; shape and dtype of `noise`
/// @throws ConfigError naming an option that is out of range
/// @throws TensorError if `noise` is not a floating tensor `[B, C, H, W]`
Tensor pyramid_noise(const Tensor& noise, const PyramidNoiseOptions& options = {},
                     const std::optional<Generator>& generator = std::nullopt);

}  // namespace diffusers
