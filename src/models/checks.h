#pragma once

// Checks of configs and inputs that the models share.

#include <cstdint>
#include <optional>

#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

/// More than any model has; beyond, the making would take memory and time without end.
inline constexpr int64_t kMostLayers = 1000;
inline constexpr int64_t kMostChannels = 1 << 20;

/// @throws ConfigError naming the key and the value unless it is in [1, most]
void require_positive(const char* key, int64_t value, int64_t most = kMostChannels);
void require_positive(const char* key, const std::optional<int64_t>& value, int64_t most = kMostChannels);

/// Checks the image that a model takes.
/// @param name of the argument
/// @param weight a parameter of the model, for dtype and device; under autocast any floating dtype will do
/// @throws TensorError unless `image` is `[B, channels, H, W]`, not empty in H and W, and fits the weight
void require_image(const char* name, const Tensor& image, int64_t channels, const Tensor& weight);

}  // namespace internal
}  // namespace diffusers
