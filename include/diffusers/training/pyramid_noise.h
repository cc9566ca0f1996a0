#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>

namespace diffusers {

struct PyramidNoiseOptions {
  int64_t iterations = 6;
  double discount = 0.4;
};

/// Noise with more of the low frequencies (Whitaker 2023, "Multi-resolution noise for diffusion model
/// training"): to `noise`, noise of ever smaller sizes is added, stretched over it and weaker by `discount`
/// each time, until a side is 1 or after `iterations`. A level i is smaller by r^i, r drawn from [2, 4). The
/// result, over the whole tensor, has a standard deviation of 1.
/// @param noise `[B, C, H, W]`, floating
/// @param generator on the noise's device. On a device, r follows from the seed and the offset of the
/// generator, which
///   the host keeps: nothing is read from the device
/// @throws ConfigError for options out of range, TensorError for noise of another shape
Tensor pyramid_noise(const Tensor& noise, const PyramidNoiseOptions& options = {},
                     const std::optional<Generator>& generator = std::nullopt);

}  // namespace diffusers
