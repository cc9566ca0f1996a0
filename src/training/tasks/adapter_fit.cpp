#include "training/tasks/adapter_fit.h"

#include <cstddef>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

std::string size_text(const FeatureSize& size) {
  return fmt::format("{} channels at 1/{} of the image", size.channels, size.factor);
}

T2IAdapterConfig full_adapter(const UNet2DConditionModelConfig& unet, bool is_xl, int64_t vae_factor) {
  T2IAdapterConfig config{.channels = unet.block_out_channels};
  if (!is_xl) {
    config.downscale_factor = vae_factor;
    return config;
  }
  // The first block of an SDXL UNet halves the resolution before it takes a feature.
  config.downscale_factor = 2 * vae_factor;
  config.adapter_type = T2IAdapterType::kFullAdapterXl;
  if (config.channels.size() == 3) config.channels.push_back(config.channels.back());  // the middle block
  return config;
}

}  // namespace

std::vector<FeatureSize> adapter_features(const T2IAdapterConfig& adapter) {
  const bool is_xl = adapter.adapter_type == T2IAdapterType::kFullAdapterXl;
  std::vector<FeatureSize> features;
  int64_t factor = adapter.downscale_factor;
  for (std::size_t i = 0; i < adapter.channels.size(); ++i) {
    if (is_xl ? i == 2 : i > 0) factor *= 2;
    features.push_back({adapter.channels[i], factor});
  }
  if (adapter.adapter_type == T2IAdapterType::kLightAdapter && !features.empty())
    features.push_back({adapter.channels.back(), factor * 2});
  return features;
}

std::string adapter_misfit(const T2IAdapterConfig& adapter, const UNet2DConditionModelConfig& unet,
                           int64_t vae_factor) {
  std::vector<FeatureSize> taken;
  int64_t factor = vae_factor;
  const std::size_t blocks = unet.down_block_types.size();
  for (std::size_t i = 0; i < blocks; ++i) {
    const std::string& type = unet.down_block_types[i];
    const bool halves = i + 1 < blocks;
    // These blocks add the feature before they halve the resolution, the others after it.
    const bool takes_inside = type == "CrossAttnDownBlock2D";
    if (!takes_inside && type.find("CrossAttn") != std::string::npos)
      return fmt::format("down_block_types of the unet has {}, which takes no feature of an adapter", type);
    taken.push_back({unet.block_out_channels[i], halves && !takes_inside ? factor * 2 : factor});
    if (halves) factor *= 2;
  }
  if (unet.mid_block_type) taken.push_back({unet.block_out_channels.back(), factor});

  const std::vector<FeatureSize> given = adapter_features(adapter);
  if (given.size() < blocks || given.size() > taken.size())
    return fmt::format(
        "the adapter with channels [{}] makes {} features, but the {} down blocks of the unet "
        "take {}{}",
        fmt::join(adapter.channels, ", "), given.size(), blocks, blocks,
        unet.mid_block_type ? fmt::format(", or {} with its middle block", taken.size()) : "");
  for (std::size_t i = 0; i < given.size(); ++i) {
    if (given[i] == taken[i]) continue;
    return fmt::format(
        "feature {} of the adapter, with adapter_type \"{}\", downscale_factor {} and channels [{}], has {}, "
        "but {} of the unet takes {}",
        i, adapter.adapter_type.name(), adapter.downscale_factor, fmt::join(adapter.channels, ", "),
        size_text(given[i]), i < blocks ? unet.down_block_types[i] : "the middle block", size_text(taken[i]));
  }
  return {};
}

T2IAdapterConfig new_adapter_config(const UNet2DConditionModelConfig& unet, bool is_xl, int64_t vae_factor) {
  for (const bool makes_xl : {is_xl, !is_xl}) {
    T2IAdapterConfig config = full_adapter(unet, makes_xl, vae_factor);
    if (adapter_misfit(config, unet, vae_factor).empty()) return config;
  }
  fail<ConfigError>("no new T2IAdapter fits the unet: {}; pass an adapter that fits",
                    adapter_misfit(full_adapter(unet, is_xl, vae_factor), unet, vae_factor));
}

}  // namespace internal
}  // namespace diffusers
