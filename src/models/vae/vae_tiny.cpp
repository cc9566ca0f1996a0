#include <memory>
#include <vector>

#include <diffusers/models/vae_tiny.h>

#include <torch/types.h>

#include "core/freed_memory.h"
#include "core/require.h"
#include "models/checks.h"
#include "models/vae/tiny_layers.h"

namespace diffusers {
namespace {

/// Largest factor of the interpolation between two stages.
constexpr int64_t kMostUpsampling = 64;
/// Largest number of stages. The factor between images and latents fits in 63 bits.
constexpr std::size_t kMostTinyStages = 10;

/// Checks the arguments that both coders have.
/// @param part "encoder" or "decoder"
template <class Options>
void check_tiny_coder(const char* part, const Options& options) {
  const auto& channels = options.block_out_channels;
  const auto& blocks = options.num_blocks;
  require_positive("in_channels", options.in_channels);
  require_positive("out_channels", options.out_channels);
  require<ConfigError>(!blocks.empty() && blocks.size() <= kMostTinyStages,
                       "num_{}_blocks has {} elements, expected from 1 to {}, one for each stage", part,
                       blocks.size(), kMostTinyStages);
  require<ConfigError>(
      channels.size() == blocks.size(),
      "{0}_block_out_channels has {1} and num_{0}_blocks {2} elements, expected as many of each", part,
      channels.size(), blocks.size());
  for (const auto count : blocks)
    require<ConfigError>(count >= 0 && count <= kMostLayers,
                         "num_{}_blocks is {}, expected numbers from 0 to {}", part, blocks, kMostLayers);
  for (const auto width : channels) {
    require<ConfigError>(width > 0 && width <= kMostChannels,
                         "{}_block_out_channels is {}, expected numbers from 1 to {}", part, channels,
                         kMostChannels);
    // The convolutions between two stages have the channels of one stage on both sides.
    require<ConfigError>(width == channels[0],
                         "{}_block_out_channels is {}, expected equal numbers, since no layer changes the "
                         "number of channels",
                         part, channels);
  }
}

layers::Conv2d tiny_conv(int64_t in_channels, int64_t out_channels, int64_t stride, bool bias) {
  return layers::Conv2d(
      in_channels, out_channels,
      layers::Conv2dOptions{.kernel_size = 3, .stride = stride, .padding = 1, .bias = bias});
}

void push_blocks(TinyLayers& layers, int64_t count, int64_t channels, layers::Activation act_fn) {
  for (int64_t i = 0; i < count; ++i) layers.push_back(AutoencoderTinyBlock(channels, act_fn));
}

}  // namespace

EncoderTinyImpl::EncoderTinyImpl(const EncoderTinyOptions& options) {
  check_tiny_coder("encoder", options);
  const auto act_fn = layers::activation_from_name(options.act_fn);
  const int64_t channels = options.block_out_channels[0];
  layers_ = register_module("layers", std::make_shared<TinyLayers>());
  conv_in = tiny_conv(options.in_channels, channels, /*stride=*/1, /*bias=*/true);
  for (std::size_t i = 0; i < options.num_blocks.size(); ++i) {
    layers_->push_back(i == 0 ? conv_in : tiny_conv(channels, channels, /*stride=*/2, /*bias=*/false));
    push_blocks(*layers_, options.num_blocks[i], channels, act_fn);
  }
  layers_->push_back(tiny_conv(channels, options.out_channels, /*stride=*/1, /*bias=*/true));
}

Tensor EncoderTinyImpl::forward(const Tensor& x) const {
  const ForwardMemoryScope memory(x);
  require_image("x", x, conv_in->weight.size(1), conv_in->weight);
  // The layers take images in [0, 1].
  return layers_->forward(x.add(1).div(2), gradient_checkpointing_);
}

DecoderTinyImpl::DecoderTinyImpl(const DecoderTinyOptions& options) {
  check_tiny_coder("decoder", options);
  require_positive("upsampling_scaling_factor", options.upsampling_scaling_factor, kMostUpsampling);
  const auto act_fn = layers::activation_from_name(options.act_fn);
  const int64_t channels = options.block_out_channels[0];
  layers_ = register_module("layers", std::make_shared<TinyLayers>());
  conv_in = tiny_conv(options.in_channels, channels, /*stride=*/1, /*bias=*/true);
  layers_->push_back(conv_in);
  layers_->push_back(act_fn);
  const std::size_t last = options.num_blocks.size() - 1;
  for (std::size_t i = 0; i <= last; ++i) {
    push_blocks(*layers_, options.num_blocks[i], channels, act_fn);
    if (i < last) layers_->push_back(TinyUpsample{options.upsampling_scaling_factor, options.upsample_fn});
    layers_->push_back(
        tiny_conv(channels, i < last ? channels : options.out_channels, /*stride=*/1, /*bias=*/i == last));
  }
}

Tensor DecoderTinyImpl::forward(const Tensor& x) const {
  const ForwardMemoryScope memory(x);
  require_image("x", x, conv_in->weight.size(1), conv_in->weight);
  const auto bounded = torch::tanh(x / 3) * 3;
  // The layers give images in [0, 1].
  return layers_->forward(bounded, gradient_checkpointing_).mul(2).sub(1);
}

}  // namespace diffusers
