#pragma once

// Checks of configs and inputs that all models use.

#include <cstdint>
#include <optional>

#include <diffusers/core/one_or_many.h>
#include <diffusers/core/tensor.h>

namespace diffusers {
inline namespace internal {

/// Largest number of layers. More would take unlimited memory and time.
inline constexpr int64_t kMostLayers = 1000;
inline constexpr int64_t kMostChannels = 1 << 20;

/// Checks a number of a config.
/// @throws ConfigError naming the key and the value if it is not in [1, most]
void require_positive(const char* key, int64_t value, int64_t most = kMostChannels);
void require_positive(const char* key, const std::optional<int64_t>& value, int64_t most = kMostChannels);

/// Checks a factor of a config.
/// @throws ConfigError naming the key and the value if it is 0 or not finite
void require_factor(const char* key, double value);

/// Checks the height and width of the samples of a model.
/// @param sample_size one number or two; empty is allowed
/// @throws ConfigError naming the numbers
void check_sample_size(const OneOrMany<int64_t>& sample_size);

/// Checks an image input of a model.
/// @param name name of the argument
/// @param weight a parameter of the model, for dtype and device; under autocast any floating dtype is
///   accepted
/// @throws TensorError unless `image` is `[B, channels, H, W]`, not empty in H and W, and fits the weight
void require_image(const char* name, const Tensor& image, int64_t channels, const Tensor& weight);

}  // namespace internal
}  // namespace diffusers
