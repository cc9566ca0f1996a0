#include <algorithm>
#include <cmath>

#include <diffusers/training/pyramid_noise.h>

#include <ATen/ATen.h>

#include "core/format.h"

namespace diffusers {

Tensor pyramid_noise(const Tensor& noise, const PyramidNoiseOptions& options,
                     const std::optional<Generator>& generator,
                     const std::optional<Generator>& host_generator) {
  require<ConfigError>(options.iterations >= 1, "pyramid_noise_iterations is {}, expected 1 or more",
                       options.iterations);
  require<ConfigError>(options.discount >= 0 && options.discount <= 1,
                       "pyramid_noise_discount is {}, expected 0 to 1", options.discount);
  require<TensorError>(noise.defined() && noise.dim() == 4 && at::isFloatingType(noise.scalar_type()),
                       "pyramid_noise: the noise is {}, expected a floating tensor [B, C, H, W]",
                       describe(noise));
  const auto draw_ratio = [&] {
    const at::TensorOptions options_of_ratio =
        at::TensorOptions().dtype(at::kFloat).device(host_generator ? at::Device(at::kCPU) : noise.device());
    const Tensor drawn = at::rand({1}, host_generator ? host_generator : generator, options_of_ratio);
    return 2 + 2 * static_cast<double>(drawn.cpu().const_data_ptr<float>()[0]);
  };
  const auto smaller = [](int64_t side, double factor) {
    return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(side) / factor));
  };
  Tensor sum = noise;
  for (int64_t level = 0; level < options.iterations; ++level) {
    const double factor = std::pow(draw_ratio(), static_cast<double>(level));
    const int64_t height = smaller(noise.size(2), factor);
    const int64_t width = smaller(noise.size(3), factor);
    const Tensor coarse =
        at::randn({noise.size(0), noise.size(1), height, width}, generator, noise.options());
    const Tensor stretched = at::upsample_bilinear2d(coarse, {noise.size(2), noise.size(3)},
                                                     /*align_corners=*/false, std::nullopt, std::nullopt);
    sum = sum + std::pow(options.discount, static_cast<double>(level)) * stretched;
    if (height == 1 || width == 1) break;
  }
  return sum / sum.std();
}

}  // namespace diffusers
