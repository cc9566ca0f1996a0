#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <diffusers/models/gradient_checkpointing.h>
#include <diffusers/models/vae.h>

#include <torch/types.h>

#include "core/freed_memory.h"
#include "core/require.h"
#include "models/checks.h"

namespace diffusers {
namespace {

constexpr double kVaeNormEps = 1e-6;
constexpr layers::Conv2dOptions kVaeConv3x3{.kernel_size = 3, .padding = 1};

template <class Options>
void check_coder(const Options& options, const char* types_key, const std::vector<std::string>& types) {
  require_positive("in_channels", options.in_channels);
  require_positive("out_channels", options.out_channels);
  require_positive("layers_per_block", options.layers_per_block, kMostLayers);
  require_positive("norm_num_groups", options.norm_num_groups);
  for (const auto channels : options.block_out_channels) require_positive("block_out_channels", channels);
  require<ConfigError>(!options.block_out_channels.empty(),
                       "block_out_channels is empty, expected the channels of each block");
  require<ConfigError>(types.size() == options.block_out_channels.size(),
                       "{} has {} and block_out_channels {} elements, expected as many of each", types_key,
                       types.size(), options.block_out_channels.size());
}

/// Runs `build` and adds the part to error messages.
template <class Options, class Build>
auto build_part(const std::string& part, const Options& options, Build&& build) {
  try {
    return build();
  } catch (const ConfigError& error) {
    fail<ConfigError>("{}: {} (block_out_channels {}, norm_num_groups {})", part, error.what(),
                      options.block_out_channels, options.norm_num_groups);
  }
}

template <class Options>
VaeBlockOptions block_options(const Options& options, std::size_t index, int64_t in_channels,
                              int64_t out_channels) {
  return {.in_channels = in_channels,
          .out_channels = out_channels,
          .add_resample = index + 1 < options.block_out_channels.size(),
          .resnet_eps = kVaeNormEps,
          .resnet_act_fn = layers::activation_from_name(options.act_fn),
          .resnet_groups = options.norm_num_groups,
          .attention_head_dim = out_channels};
}

/// Makes the block of the lowest resolution, with one attention head.
template <class Options>
UNetMidBlock2D make_mid_block(const Options& options, std::optional<int64_t> spatial_norm_dim) {
  const int64_t channels = options.block_out_channels.back();
  return build_part("mid_block", options, [&] {
    return UNetMidBlock2D(UNetMidBlock2DOptions{.in_channels = channels,
                                                .resnet_eps = kVaeNormEps,
                                                .resnet_act_fn = layers::activation_from_name(options.act_fn),
                                                .resnet_groups = options.norm_num_groups,
                                                .add_attention = options.mid_block_add_attention,
                                                .attention_head_dim = channels,
                                                .spatial_norm_dim = spatial_norm_dim});
  });
}

/// Calls module->forward(hidden, latent_embeds), with gradient checkpointing if it is enabled.
template <class Pointer>
Tensor run_coder_block(const Pointer& module, Tensor hidden, const Tensor& latent_embeds,
                       bool checkpointing) {
  if (!checkpointing) return module->forward(std::move(hidden), latent_embeds);
  std::vector<Tensor> inputs{std::move(hidden)};
  if (latent_embeds.defined()) inputs.push_back(latent_embeds);
  // The body owns the module, so that the backward pass works after the model is destroyed.
  auto body = [module](const std::vector<Tensor>& tensors) {
    return module->forward(tensors[0], tensors.size() > 1 ? tensors[1] : Tensor());
  };
  return checkpoint(std::move(body), inputs, *module, /*uses_random=*/false);
}

}  // namespace

VaeEncoderImpl::VaeEncoderImpl(const VaeEncoderOptions& options) {
  check_coder(options, "down_block_types", options.down_block_types);
  const auto& channels = options.block_out_channels;
  conv_in = register_module("conv_in", layers::Conv2d(options.in_channels, channels[0], kVaeConv3x3));
  down_blocks_ =
      register_module("down_blocks", std::make_shared<layers::ModuleVectorImpl<VaeBlockPointer>>());
  for (std::size_t i = 0; i < channels.size(); ++i) {
    auto block = block_options(options, i, channels[i == 0 ? 0 : i - 1], channels[i]);
    block.num_layers = options.layers_per_block;
    const auto& type = options.down_block_types[i];
    down_blocks_->push_back(build_part(fmt::format("encoder, down_block_types[{}] = \"{}\"", i, type),
                                       options, [&] { return get_encoder_block(type, block); }));
  }
  mid_block_ = register_module("mid_block", make_mid_block(options, /*spatial_norm_dim=*/std::nullopt));
  conv_norm_out_ = register_module("conv_norm_out",
                                   layers::GroupNorm(options.norm_num_groups, channels.back(), kVaeNormEps));
  conv_out_ = register_module(
      "conv_out",
      layers::Conv2d(channels.back(), options.double_z ? 2 * options.out_channels : options.out_channels,
                     kVaeConv3x3));
}

Tensor VaeEncoderImpl::forward(const Tensor& sample) const {
  const ForwardMemoryScope memory(sample);
  require_image("sample", sample, conv_in->weight.size(1), conv_in->weight);
  auto hidden = conv_in->forward(sample);
  for (const auto& block : *down_blocks_)
    hidden = run_coder_block(block, std::move(hidden), {}, gradient_checkpointing_);
  hidden = run_coder_block(mid_block_.ptr(), std::move(hidden), {}, gradient_checkpointing_);
  return conv_out_->forward(conv_norm_out_->forward_silu(hidden));
}

VaeDecoderImpl::VaeDecoderImpl(const VaeDecoderOptions& options) {
  check_coder(options, "up_block_types", options.up_block_types);
  const auto& channels = options.block_out_channels;
  std::optional<int64_t> spatial_norm_dim;
  if (options.norm_type == VaeNormType::kSpatial) spatial_norm_dim = options.in_channels;

  conv_in = register_module("conv_in", layers::Conv2d(options.in_channels, channels.back(), kVaeConv3x3));
  // Python's state dict has up_blocks before the mid block, but their layers are made after it.
  up_blocks_ = register_module("up_blocks", std::make_shared<layers::ModuleVectorImpl<VaeBlockPointer>>());
  mid_block_ = register_module("mid_block", make_mid_block(options, spatial_norm_dim));
  for (std::size_t i = 0; i < channels.size(); ++i) {
    const std::size_t level = channels.size() - 1 - i;
    auto block = block_options(options, i, channels[i == 0 ? level : level + 1], channels[level]);
    block.num_layers = options.layers_per_block + 1;
    block.spatial_norm_dim = spatial_norm_dim;
    const auto& type = options.up_block_types[i];
    up_blocks_->push_back(build_part(fmt::format("decoder, up_block_types[{}] = \"{}\"", i, type), options,
                                     [&] { return get_decoder_block(type, block); }));
  }
  if (spatial_norm_dim) {
    spatial_norm_out_ = register_module("conv_norm_out", SpatialNorm(channels[0], *spatial_norm_dim));
  } else {
    conv_norm_out_ = register_module("conv_norm_out",
                                     layers::GroupNorm(options.norm_num_groups, channels[0], kVaeNormEps));
  }
  conv_out_ = register_module("conv_out", layers::Conv2d(channels[0], options.out_channels, kVaeConv3x3));
}

Tensor VaeDecoderImpl::forward(const Tensor& sample, const Tensor& latent_embeds) const {
  const ForwardMemoryScope memory(sample);
  const auto& weight = conv_in->weight;
  require_image("sample", sample, weight.size(1), weight);
  if (spatial_norm_out_) {
    require_image("latent_embeds", latent_embeds, weight.size(1), weight);
    require<TensorError>(latent_embeds.size(0) == sample.size(0), "latent_embeds are {}, the sample {}",
                         shape_string(latent_embeds.sizes()), shape_string(sample.sizes()));
  } else {
    require<TensorError>(!latent_embeds.defined(),
                         "latent_embeds: expected none, since norm_type is not \"spatial\", got {}",
                         describe(latent_embeds));
  }
  auto hidden = conv_in->forward(sample);
  hidden = run_coder_block(mid_block_.ptr(), std::move(hidden), latent_embeds, gradient_checkpointing_);
  for (const auto& block : *up_blocks_)
    hidden = run_coder_block(block, std::move(hidden), latent_embeds, gradient_checkpointing_);
  hidden = spatial_norm_out_ ? torch::silu(spatial_norm_out_->forward(hidden, latent_embeds))
                             : conv_norm_out_->forward_silu(hidden);
  return conv_out_->forward(hidden);
}

}  // namespace diffusers
