#pragma once

// Images and masks that a pipeline is called with.

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

/// Number of channels that makes an image one of latents, as in Python's VaeImageProcessor.
inline constexpr int64_t kImageLatentChannels = 4;

/// `{height, width}`.
using ImageSize = std::pair<int64_t, int64_t>;

/// Checks the shape and the dtype of images.
/// @param name of the option, for messages
/// @return `[B, C, H, W]`
/// @throws TensorError unless the image is a floating `[B, C, H, W]` or `[C, H, W]`
Tensor image_batch(std::string_view name, const Tensor& image);

/// Images in [-1, 1] with sides that the autoencoder can halve. Latents are passed on.
/// @param pipeline class name, for messages
/// @param image `[B, C, H, W]` or `[C, H, W]`, floating in [0, 1]; values below 0 warn and mean [-1, 1]
/// @param scale the autoencoder's scale
/// @param size resized to, by the nearest pixel; none: the image's, reduced to multiples of `scale`
/// @throws TensorError if the image has another shape, dtype or range
Tensor preprocessed_image(std::string_view pipeline, const Tensor& image, int64_t scale,
                          std::optional<ImageSize> size = std::nullopt);

/// Images for a ControlNet: as `preprocessed_image`, with the values as they are.
/// @param name of the option, for messages
/// @throws TensorError if the image has another shape, dtype or range
Tensor preprocessed_control_image(std::string_view name, const Tensor& image, int64_t scale,
                                  std::optional<int64_t> height, std::optional<int64_t> width);

/// Masks of 0 and 1.
/// @param mask `[B, 1, H, W]`, `[B, H, W]` or `[H, W]`, floating in [0, 1]; 1 from 0.5
/// @param image_size size that the mask must have
/// @param size resized to, by the nearest pixel
/// @return `[B, 1, height, width]` float32
/// @throws TensorError if the mask has another shape, dtype, range or size
Tensor preprocessed_mask(const Tensor& mask, const ImageSize& image_size, const ImageSize& size);

/// Repeats rows in their order, [a, b, a, b], until there is one for each image to draw.
/// @param name of the option, for messages
/// @throws TensorError if the number of rows does not divide `batch_size`
Tensor repeated_rows(std::string_view name, const Tensor& rows, int64_t batch_size);

}  // namespace internal
}  // namespace diffusers
