#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>

namespace diffusers {

/// Options of `pyramid_noise`.
struct PyramidNoiseOptions {
  int64_t iterations = 6;  ///< largest number of levels, at least 1
  double discount = 0.4;   ///< factor of each level against the one before, 0 to 1
};

/// Multi-resolution noise, which has more of the low frequencies (Whitaker 2023, "Multi-resolution noise for
/// diffusion model training"). Level i adds noise of sides smaller by r^i, stretched to the size of `noise`
/// and multiplied by discount^i, with r drawn from [2, 4). It ends after `iterations` levels, or after the
/// first level that has a side of 1.
/// @param noise `[B, C, H, W]`, floating
/// @param options number and strength of the levels
/// @param generator source of the random numbers, on the device of `noise`; none: the global one. On a CUDA
/// device r is computed from the seed and the offset of the generator, which the host knows, so that nothing
/// is read from the device.
/// @return the sum, scaled so that the whole tensor has a standard deviation of 1; shape and dtype of `noise`
/// @throws ConfigError naming an option that is out of range; TensorError if `noise` is not a floating
/// `[B, C, H, W]`
Tensor pyramid_noise(const Tensor& noise, const PyramidNoiseOptions& options = {},
                     const std::optional<Generator>& generator = std::nullopt);

}  // namespace diffusers
