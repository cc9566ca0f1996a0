#pragma once

// What the files of the UNet's blocks share.

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

/// The type of a block without "UNetRes" in front, which old configs have.
std::string_view without_unet_res_prefix(std::string_view type);
/// norm_num_groups, for the blocks that cannot do without.
int64_t required_groups(const UNetBlockOptions& options);
/// A residual block of the UNet, before the particulars of its place.
ResnetBlock2DOptions unet_resnet_options(const UNetBlockOptions& options, int64_t in_channels,
                                         int64_t out_channels);
/// A residual block of the mid block; groups may be missing from the options.
ResnetBlock2DOptions mid_resnet_options(const UNetBlockOptions& options);
/// What layer `index` of an up block takes: the hidden states and a residual.
int64_t up_resnet_in_channels(const UNetBlockOptions& options, int64_t index);
/// Channels in a group of the norms of K blocks.
inline constexpr int64_t kKBlockGroupSize = 32;
/// A residual block of the K blocks.
ResnetBlockCondNorm2D k_resnet(const UNetBlockOptions& options, int64_t in_channels, int64_t out_channels,
                               int64_t norm_channels_out,
                               std::optional<int64_t> conv_2d_out_channels = std::nullopt);
/// Attention of an image to itself with channels / head_dim heads.
Attention unet_self_attention(int64_t channels, int64_t head_dim, std::optional<int64_t> groups, double eps,
                              double output_scale_factor,
                              std::optional<int64_t> spatial_norm_dim = std::nullopt);

/// Takes the last residual from the state.
Tensor take_residual(UNetState& state);
/// Puts a residual behind the channels of the hidden states.
void append_residual(UNetState& state, const Tensor& residual);
/// The residual, if adding it leaves the shape of the hidden states.
/// @throws TensorError naming both otherwise
const Tensor& fitting_residual(const Tensor& residual, const Tensor& hidden_states);
/// FreeU of the state, if any: changes its hidden states.
/// @return the changed residual
Tensor apply_freeu(UNetState& state, const Tensor& residual);
/// What an up block upsamples to, where sizes do not halve evenly.
std::optional<std::array<int64_t, 2>> forwarded_size(const UNetState& state);

}  // namespace internal
}  // namespace diffusers
