#pragma once

// Helpers for the blocks of the UNets.

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include <diffusers/models/unet_2d_blocks.h>

#include <torch/types.h>

namespace diffusers {
inline namespace internal {

enum class DownBlockKind { kPlain, kResnet, kAttention };
enum class UpBlockKind { kPlain, kResnet, kAttention };

UNetBlockPointer make_down_block(const UNetBlockOptions& options, DownBlockKind kind);
UNetBlockPointer make_up_block(const UNetBlockOptions& options, UpBlockKind kind);
UNetBlockPointer make_skip_down_block(const UNetBlockOptions& options, bool attention);
UNetBlockPointer make_skip_up_block(const UNetBlockOptions& options, bool attention);
UNetBlockPointer make_k_down_block(const UNetBlockOptions& options);
UNetBlockPointer make_k_up_block(const UNetBlockOptions& options);
UNetBlockPointer make_cross_down_block(const UNetBlockOptions& options);
UNetBlockPointer make_cross_up_block(const UNetBlockOptions& options);
UNetBlockPointer make_cross_mid_block(const UNetBlockOptions& options);
UNetBlockPointer make_simple_cross_down_block(const UNetBlockOptions& options);
UNetBlockPointer make_simple_cross_up_block(const UNetBlockOptions& options);
UNetBlockPointer make_simple_cross_mid_block(const UNetBlockOptions& options);
UNetBlockPointer make_k_cross_down_block(const UNetBlockOptions& options);
UNetBlockPointer make_k_cross_up_block(const UNetBlockOptions& options);

/// Returns the type of a block without the prefix "UNetRes" of old configs.
std::string_view without_unet_res_prefix(std::string_view type);
/// Returns norm_num_groups.
/// @throws ConfigError if it is null, for the blocks that require it
int64_t required_groups(const UNetBlockOptions& options);
/// Returns the options that all residual blocks of the UNet have in common.
ResnetBlock2DOptions unet_resnet_options(const UNetBlockOptions& options, int64_t in_channels,
                                         int64_t out_channels);
/// Returns the options of a residual block of the mid block. The number of groups may be missing.
ResnetBlock2DOptions mid_resnet_options(const UNetBlockOptions& options);
/// Returns the input channels of layer `index` of an up block: those of the hidden states and of a residual.
int64_t up_resnet_in_channels(const UNetBlockOptions& options, int64_t index);
/// Number of channels in a group of the norms of K blocks.
inline constexpr int64_t kKBlockGroupSize = 32;
/// Makes a residual block of the K blocks.
ResnetBlockCondNorm2D k_resnet(const UNetBlockOptions& options, int64_t in_channels, int64_t out_channels,
                               int64_t norm_channels_out,
                               std::optional<int64_t> conv_2d_out_channels = std::nullopt);
/// Makes self-attention with channels / head_dim heads.
Attention unet_self_attention(int64_t channels, int64_t head_dim, std::optional<int64_t> groups, double eps,
                              double output_scale_factor,
                              std::optional<int64_t> spatial_norm_dim = std::nullopt);

/// Removes the last residual from the state and returns it.
Tensor take_residual(UNetState& state);
/// Concatenates a residual to the channels of the hidden states.
void append_residual(UNetState& state, const Tensor& residual);
/// Returns the residual after checking that adding it keeps the shape of the hidden states.
/// @throws TensorError naming both if it does not
const Tensor& fitting_residual(const Tensor& residual, const Tensor& hidden_states);
/// Applies FreeU to the hidden states of the state, if FreeU is enabled.
/// @return the changed residual
Tensor apply_freeu(UNetState& state, const Tensor& residual);
/// Returns the size to which an up block upsamples; nullopt if all sizes halve evenly.
std::optional<std::array<int64_t, 2>> forwarded_size(const UNetState& state);

}  // namespace internal
}  // namespace diffusers
