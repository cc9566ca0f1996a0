#include "models/unet/unet_2d_blocks.h"

#include <algorithm>

#include <diffusers/models/gradient_checkpointing.h>

#include <ATen/ExpandUtils.h>

#include "core/require.h"
#include "models/unet/dropout_layout.h"
#include "ops/append_channels.h"

namespace diffusers {
namespace {

constexpr std::string_view kDownTypes =
    "DownBlock2D, ResnetDownsampleBlock2D, AttnDownBlock2D, SkipDownBlock2D, AttnSkipDownBlock2D, "
    "KDownBlock2D";
constexpr std::string_view kCrossDownTypes =
    "CrossAttnDownBlock2D, SimpleCrossAttnDownBlock2D, KCrossAttnDownBlock2D";
constexpr std::string_view kUpTypes =
    "UpBlock2D, ResnetUpsampleBlock2D, AttnUpBlock2D, SkipUpBlock2D, AttnSkipUpBlock2D, KUpBlock2D";
constexpr std::string_view kCrossUpTypes =
    "CrossAttnUpBlock2D, SimpleCrossAttnUpBlock2D, KCrossAttnUpBlock2D";

Tensor run_checkpointed(const ResnetPointer& resnet, const Tensor& hidden_states, const Tensor& temb) {
  // The body owns the module, so that the backward pass works after the model is destroyed.
  auto body = [module = resnet](const std::vector<Tensor>& inputs) {
    return module->forward(inputs[0], inputs.size() > 1 ? inputs[1] : Tensor());
  };
  std::vector<Tensor> inputs{hidden_states};
  if (temb.defined()) inputs.push_back(temb);
  return checkpoint(std::move(body), inputs, *resnet, resnet->is_training() && resnet->dropout() > 0);
}

[[noreturn]] void fail_unknown(std::string_view kind, std::string_view type, const UNetBlockOptions& options,
                               std::string_view known, std::string_view known_with_encoder) {
  const bool has_encoder = options.cross_attention_dim.has_value();
  const bool needs_text = !has_encoder && type.find("CrossAttn") != std::string_view::npos;
  const bool of_autoencoder = type.find("coderBlock2D") != std::string_view::npos;
  fail<ConfigError>("{} block type \"{}\" {}; it must be one of: {}{}{}", kind, type,
                    needs_text       ? "attends to an encoder's hidden states, which this model does not have"
                    : of_autoencoder ? "is a block of autoencoders and cannot work in a UNet"
                                     : "does not exist",
                    known, has_encoder ? ", " : "", has_encoder ? known_with_encoder : "");
}

}  // namespace

Tensor UNetBlock::run_resnet(const ResnetPointer& resnet, const Tensor& hidden_states,
                             const Tensor& temb) const {
  return gradient_checkpointing_ ? run_checkpointed(resnet, hidden_states, temb)
                                 : resnet->forward(hidden_states, temb);
}

Tensor UNetBlock::run_resnet(const ResnetBlock2D& resnet, const Tensor& hidden_states,
                             const Tensor& temb) const {
  return run_resnet(ResnetPointer(resnet.ptr()), hidden_states, temb);
}

Tensor UNetBlock::run_resnet(const ResnetBlockCondNorm2D& resnet, const Tensor& hidden_states,
                             const Tensor& temb) const {
  return run_resnet(ResnetPointer(resnet.ptr()), hidden_states, temb);
}

std::string_view internal::without_unet_res_prefix(std::string_view type) {
  constexpr std::string_view kPrefix = "UNetRes";
  return type.starts_with(kPrefix) ? type.substr(kPrefix.size()) : type;
}

int64_t internal::required_groups(const UNetBlockOptions& options) {
  require<ConfigError>(options.resnet_groups.has_value(),
                       "norm_num_groups is null, which only blocks of the Skip and K kinds can do with");
  return *options.resnet_groups;
}

ResnetBlock2DOptions internal::unet_resnet_options(const UNetBlockOptions& options, int64_t in_channels,
                                                   int64_t out_channels) {
  return {.in_channels = in_channels,
          .out_channels = out_channels,
          .temb_channels = options.temb_channels,
          .dropout = options.dropout,
          .groups = options.resnet_groups.value_or(32),
          .eps = options.resnet_eps,
          .non_linearity = options.resnet_act_fn,
          .time_embedding_norm = options.resnet_time_scale_shift};
}

ResnetBlock2DOptions internal::mid_resnet_options(const UNetBlockOptions& options) {
  auto resnet = unet_resnet_options(options, options.in_channels, options.in_channels);
  resnet.groups = options.resnet_groups.value_or(std::min<int64_t>(options.in_channels / 4, 32));
  resnet.output_scale_factor = options.resnet_out_scale_factor;
  return resnet;
}

int64_t internal::up_resnet_in_channels(const UNetBlockOptions& options, int64_t index) {
  const int64_t skip_channels = index == options.num_layers - 1 ? options.in_channels : options.out_channels;
  return (index == 0 ? options.prev_output_channel : options.out_channels) + skip_channels;
}

Attention internal::unet_self_attention(int64_t channels, int64_t head_dim, std::optional<int64_t> groups,
                                        double eps, double output_scale_factor,
                                        std::optional<int64_t> spatial_norm_dim) {
  require<ConfigError>(head_dim > 0, "attention_head_dim is {}, must be positive", head_dim);
  require<ConfigError>(channels >= head_dim,
                       "attention_head_dim is {}, more than the {} channels to be split into heads", head_dim,
                       channels);
  return Attention(AttentionLayerOptions{.query_dim = channels,
                                         .heads = channels / head_dim,
                                         .dim_head = head_dim,
                                         .bias = true,
                                         .norm_num_groups = groups,
                                         .spatial_norm_dim = spatial_norm_dim,
                                         .eps = eps,
                                         .rescale_output_factor = output_scale_factor,
                                         .residual_connection = true,
                                         .from_deprecated_attn_block = true});
}

Tensor internal::take_residual(UNetState& state) {
  require<ConfigError>(
      !state.residuals.empty(),
      "up_block_types take more residuals than down_block_types leave; a K block fits only its like");
  auto residual = std::move(state.residuals.back());
  state.residuals.pop_back();
  return residual;
}

void internal::append_residual(UNetState& state, const Tensor& residual) {
  const auto& hidden = state.hidden_states;
  require<ConfigError>(
      residual.defined(),
      "up_block_types: a KCrossAttnDownBlock2D at the lowest resolution leaves no residuals, "
      "which only K blocks can do without");
  require<TensorError>(
      hidden.size(2) == residual.size(2) && hidden.size(3) == residual.size(3),
      "an up block has {} and the down block on its level left {}: height and width of the sample "
      "must halve without remainder at each downsampling, and blocks on a level must be of one kind",
      shape_string(hidden.sizes()), shape_string(residual.sizes()));
  state.hidden_states = append_channels(hidden, residual);
}

const Tensor& internal::fitting_residual(const Tensor& residual, const Tensor& hidden_states) {
  require<TensorError>(residual.defined() && residual.device() == hidden_states.device() &&
                           at::is_expandable_to(residual.sizes(), hidden_states.sizes()),
                       "an additional residual {} does not fit the hidden states {}", describe(residual),
                       describe(hidden_states));
  return residual;
}

std::optional<std::array<int64_t, 2>> internal::forwarded_size(const UNetState& state) {
  if (!state.forward_upsample_size || state.residuals.empty() || !state.residuals.back().defined())
    return std::nullopt;
  const auto& next = state.residuals.back();
  return std::array<int64_t, 2>{next.size(2), next.size(3)};
}

UNetBlockPointer get_down_block(std::string_view type, const UNetBlockOptions& options) {
  const auto name = without_unet_res_prefix(type);
  require<ConfigError>(options.num_layers > 0, "layers_per_block is {}, must be positive",
                       options.num_layers);
  if (name == "DownBlock2D") return make_down_block(options, DownBlockKind::kPlain);
  if (name == "ResnetDownsampleBlock2D") return make_down_block(options, DownBlockKind::kResnet);
  if (name == "AttnDownBlock2D") return make_down_block(options, DownBlockKind::kAttention);
  if (name == "SkipDownBlock2D") return make_skip_down_block(options, /*attention=*/false);
  if (name == "AttnSkipDownBlock2D") return make_skip_down_block(options, /*attention=*/true);
  if (name == "KDownBlock2D") return make_k_down_block(options);
  if (options.cross_attention_dim) {
    if (name == "CrossAttnDownBlock2D") return make_cross_down_block(options);
    if (name == "SimpleCrossAttnDownBlock2D") return make_simple_cross_down_block(options);
    if (name == "KCrossAttnDownBlock2D") return make_k_cross_down_block(options);
  }
  fail_unknown("down", type, options, kDownTypes, kCrossDownTypes);
}

UNetBlockPointer get_up_block(std::string_view type, const UNetBlockOptions& options) {
  const auto name = without_unet_res_prefix(type);
  require<ConfigError>(options.num_layers > 0, "layers_per_block is {}, must be positive",
                       options.num_layers);
  if (name == "UpBlock2D") return make_up_block(options, UpBlockKind::kPlain);
  if (name == "ResnetUpsampleBlock2D") return make_up_block(options, UpBlockKind::kResnet);
  if (name == "AttnUpBlock2D") return make_up_block(options, UpBlockKind::kAttention);
  if (name == "SkipUpBlock2D") return make_skip_up_block(options, /*attention=*/false);
  if (name == "AttnSkipUpBlock2D") return make_skip_up_block(options, /*attention=*/true);
  if (name == "KUpBlock2D") return make_k_up_block(options);
  if (options.cross_attention_dim) {
    if (name == "CrossAttnUpBlock2D") return make_cross_up_block(options);
    if (name == "SimpleCrossAttnUpBlock2D") return make_simple_cross_up_block(options);
    if (name == "KCrossAttnUpBlock2D") return make_k_cross_up_block(options);
  }
  fail_unknown("up", type, options, kUpTypes, kCrossUpTypes);
}

UNetBlockPointer get_mid_block(std::string_view type, const UNetBlockOptions& options) {
  if (type == "UNetMidBlock2D") {
    return UNetMidBlock2D(UNetMidBlock2DOptions{.in_channels = options.in_channels,
                                                .temb_channels = options.temb_channels,
                                                .dropout = options.dropout,
                                                .num_layers = 0,
                                                .resnet_eps = options.resnet_eps,
                                                .resnet_time_scale_shift = options.resnet_time_scale_shift,
                                                .resnet_act_fn = options.resnet_act_fn,
                                                .resnet_groups = options.resnet_groups,
                                                .add_attention = false,
                                                .output_scale_factor = options.resnet_out_scale_factor})
        .ptr();
  }
  if (type == "UNetMidBlock2DCrossAttn") return make_cross_mid_block(options);
  if (type == "UNetMidBlock2DSimpleCrossAttn") return make_simple_cross_mid_block(options);
  fail<ConfigError>(
      "mid_block_type is \"{}\", expected one of: \"UNetMidBlock2DCrossAttn\" "
      "\"UNetMidBlock2DSimpleCrossAttn\" \"UNetMidBlock2D\"",
      type);
}

UNetMidBlock2DImpl::UNetMidBlock2DImpl(const UNetMidBlock2DOptions& options)
    : attentions_(std::make_shared<layers::ModuleVectorImpl<Attention>>()),
      resnets_(std::make_shared<layers::ModuleVectorImpl<ResnetPointer>>()) {
  const int64_t groups = options.resnet_groups.value_or(std::min<int64_t>(options.in_channels / 4, 32));
  auto attn_groups = options.attn_groups;
  if (!attn_groups && !options.spatial_norm_dim &&
      options.resnet_time_scale_shift == ResnetTimeScaleShift::kDefault)
    attn_groups = groups;
  const auto push_resnet = [&] {
    if (options.spatial_norm_dim) {
      resnets_->push_back(ResnetBlockCondNorm2D(ResnetBlockCondNorm2DOptions{
                                                    .in_channels = options.in_channels,
                                                    .temb_channels = *options.spatial_norm_dim,
                                                    .dropout = options.dropout,
                                                    .eps = options.resnet_eps,
                                                    .non_linearity = options.resnet_act_fn,
                                                    .time_embedding_norm = ResnetConditionalNorm::kSpatial,
                                                    .output_scale_factor = options.output_scale_factor})
                              .ptr());
    } else {
      resnets_->push_back(
          ResnetBlock2D(ResnetBlock2DOptions{.in_channels = options.in_channels,
                                             .temb_channels = options.temb_channels,
                                             .dropout = options.dropout,
                                             .groups = groups,
                                             .eps = options.resnet_eps,
                                             .non_linearity = options.resnet_act_fn,
                                             .time_embedding_norm = options.resnet_time_scale_shift,
                                             .output_scale_factor = options.output_scale_factor})
              .ptr());
    }
  };
  push_resnet();
  for (int64_t i = 0; i < options.num_layers; ++i) {
    if (options.add_attention) {
      attentions_->push_back(unet_self_attention(options.in_channels, options.attention_head_dim, attn_groups,
                                                 options.resnet_eps, options.output_scale_factor,
                                                 options.spatial_norm_dim));
    }
    push_resnet();
  }
  register_module("attentions", attentions_);
  register_module("resnets", resnets_);
}

void UNetMidBlock2DImpl::run(UNetState& state) const {
  state.hidden_states = forward(state.hidden_states, state.temb);
}

Tensor UNetMidBlock2DImpl::forward(const Tensor& hidden_states, const Tensor& temb) const {
  // As in Python, the first residual block is never checkpointed.
  auto hidden = (*resnets_)[0]->forward(hidden_states, temb);
  for (std::size_t i = 1; i < resnets_->size(); ++i) {
    if (!attentions_->empty())
      hidden = order_for_dropout((*attentions_)[i - 1]->forward(hidden, {}, {}, temb), *(*resnets_)[i]);
    hidden = run_resnet((*resnets_)[i], hidden, temb);
  }
  return hidden;
}

}  // namespace diffusers
