#include "models/control/t2i_adapter_body.h"

#include <torch/types.h>

#include "core/require.h"

namespace diffusers {
inline namespace internal {
namespace {

layers::Conv2d adapter_conv(int64_t in_channels, int64_t out_channels, int64_t kernel_size) {
  return layers::Conv2d(in_channels, out_channels,
                        layers::Conv2dOptions{.kernel_size = kernel_size, .padding = kernel_size / 2});
}

}  // namespace

AdapterResnetImpl::AdapterResnetImpl(int64_t channels, bool light) {
  block1_ = register_module("block1", adapter_conv(channels, channels, 3));
  block2_ = register_module("block2", adapter_conv(channels, channels, light ? 3 : 1));
}

Tensor AdapterResnetImpl::forward(const Tensor& x) const {
  return block2_->forward(torch::relu(block1_->forward(x))) + x;
}

AdapterBlockImpl::AdapterBlockImpl(const AdapterBlockOptions& options)
    : down_(options.down), resnets_(std::make_shared<layers::ModuleVectorImpl<AdapterResnet>>()) {
  const int64_t inner = options.light ? options.out_channels / 4 : options.out_channels;
  require<ConfigError>(inner > 0,
                       "channels has {}, too few for a \"light_adapter\", which takes a quarter of it",
                       options.out_channels);
  if (options.light || options.in_channels != inner)
    in_conv_ = register_module("in_conv", adapter_conv(options.in_channels, inner, 1));
  for (int64_t i = 0; i < options.num_res_blocks; ++i)
    resnets_->push_back(AdapterResnet(inner, options.light));
  register_module("resnets", resnets_);
  if (options.light) out_conv_ = register_module("out_conv", adapter_conv(inner, options.out_channels, 1));
}

Tensor AdapterBlockImpl::forward(const Tensor& x) const {
  auto hidden = down_ ? torch::avg_pool2d(x, 2, 2, 0, /*ceil_mode=*/true) : x;
  if (in_conv_) hidden = in_conv_->forward(hidden);
  for (const auto& resnet : *resnets_) hidden = resnet->forward(hidden);
  return out_conv_ ? out_conv_->forward(hidden) : hidden;
}

T2IAdapterBody::T2IAdapterBody(const T2IAdapterConfig& config)
    : downscale_factor_(config.downscale_factor),
      blocks_(std::make_shared<layers::ModuleVectorImpl<AdapterBlock>>()) {
  const auto& channels = config.channels;
  const bool light = config.adapter_type == T2IAdapterType::kLightAdapter;
  const bool xl = config.adapter_type == T2IAdapterType::kFullAdapterXl;
  const int64_t unshuffled = config.in_channels * downscale_factor_ * downscale_factor_;
  const auto push_block = [&](int64_t in_channels, int64_t out_channels, bool down) {
    blocks_->push_back(
        AdapterBlock(AdapterBlockOptions{in_channels, out_channels, config.num_res_blocks, down, light}));
  };
  if (!light) conv_in_ = register_module("conv_in", adapter_conv(unshuffled, channels[0], 3));
  push_block(light ? unshuffled : channels[0], channels[0], /*down=*/false);
  for (std::size_t i = 1; i < channels.size(); ++i) push_block(channels[i - 1], channels[i], !xl || i == 2);
  if (light) push_block(channels.back(), channels.back(), /*down=*/true);
  register_module("body", blocks_);

  const auto levels = static_cast<int64_t>(channels.size()) - (light ? 0 : 1);
  total_downscale_factor_ = downscale_factor_ << (xl ? 1 : levels);
}

std::vector<Tensor> T2IAdapterBody::forward(const Tensor& x) const {
  auto hidden = torch::pixel_unshuffle(x, downscale_factor_);
  if (conv_in_) hidden = conv_in_->forward(hidden);
  std::vector<Tensor> features;
  for (const auto& block : *blocks_) {
    hidden = block->forward(hidden);
    features.push_back(hidden);
  }
  return features;
}

}  // namespace internal
}  // namespace diffusers
