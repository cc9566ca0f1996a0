#include <algorithm>
#include <cmath>
#include <cstdint>
#include <mutex>

#include <diffusers/training/pyramid_noise.h>

#include <ATen/ATen.h>

#include "core/require.h"

namespace diffusers {
namespace {

/// Sebastiano Vigna's SplitMix64: every bit of the result depends on every bit of `x`.
uint64_t scrambled(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

/// Returns a number in [0, 1) without waiting for a device. On the CPU it is the next number of the
/// generator, as in Python. For a device it is computed from the seed and the offset of the device's
/// generator. The host knows both, and each draw advances the offset.
double host_uniform(const std::optional<Generator>& generator, const at::TensorOptions& options) {
  if (options.device().is_cpu()) return at::rand({1}, generator, options.dtype(at::kFloat)).item<double>();
  Generator source =
      generator && generator->defined() ? *generator : at::globalContext().defaultGenerator(options.device());
  uint64_t seed = 0;
  uint64_t offset = 0;
  {
    const std::lock_guard<std::mutex> lock(source.mutex());
    seed = source.current_seed();
    offset = source.get_offset();
  }
  constexpr double kUnit = 0x1p-53;
  return static_cast<double>(scrambled(scrambled(seed) ^ offset) >> 11) * kUnit;
}

}  // namespace

Tensor pyramid_noise(const Tensor& noise, const PyramidNoiseOptions& options,
                     const std::optional<Generator>& generator) {
  require<ConfigError>(options.iterations >= 1, "pyramid_noise_iterations is {}, expected 1 or more",
                       options.iterations);
  require<ConfigError>(options.discount >= 0 && options.discount <= 1,
                       "pyramid_noise_discount is {}, expected 0 to 1", options.discount);
  require<TensorError>(noise.defined() && noise.dim() == 4 && at::isFloatingType(noise.scalar_type()),
                       "pyramid_noise: the noise is {}, expected a floating tensor [B, C, H, W]",
                       describe(noise));
  const auto smaller = [](int64_t side, double factor) {
    return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(side) / factor));
  };
  Tensor sum = noise;
  for (int64_t level = 0; level < options.iterations; ++level) {
    const double ratio = 2 + 2 * host_uniform(generator, noise.options());
    const double factor = std::pow(ratio, static_cast<double>(level));
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
