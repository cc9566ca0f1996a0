#include "models/checks.h"

#include <cmath>

#include <ATen/autocast_mode.h>
#include <torch/types.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {

void require_positive(const char* key, int64_t value, int64_t most) {
  require<ConfigError>(value > 0 && value <= most, "{} is {}, expected a number from 1 to {}", key, value,
                       most);
}

void require_positive(const char* key, const std::optional<int64_t>& value, int64_t most) {
  if (value) require_positive(key, *value, most);
}

void require_factor(const char* key, double value) {
  require<ConfigError>(std::isfinite(value) && value != 0, "{} is {}, expected a finite number other than 0",
                       key, value);
}

void check_sample_size(const OneOrMany<int64_t>& sample_size) {
  const auto& sizes = sample_size.values();
  require<ConfigError>(sizes.size() <= 2, "sample_size is {}, expected one number or two", sizes);
  for (const auto size : sizes) require_positive("sample_size", size);
}

void require_image(const char* name, const Tensor& image, int64_t channels, const Tensor& weight) {
  require<TensorError>(image.defined() && image.dim() == 4 && image.size(1) == channels,
                       "{}: expected [B, {}, H, W], got {}", name, channels, describe(image));
  require<TensorError>(image.size(2) > 0 && image.size(3) > 0,
                       "{}: height and width must be positive, got {}", name, describe(image));
  require<TensorError>(image.device() == weight.device(), "{} is on {}, the model on {}", name,
                       image.device().str(), weight.device().str());
  const bool autocast = at::autocast::is_autocast_enabled(image.device().type());
  require<TensorError>(autocast ? image.is_floating_point() : image.scalar_type() == weight.scalar_type(),
                       "{} is {}, the model {}", name, dtype_name(image.scalar_type()),
                       dtype_name(weight.scalar_type()));
}

}  // namespace internal
}  // namespace diffusers
