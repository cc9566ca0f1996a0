#include "models/control/controlnet.h"

#include <algorithm>
#include <map>

#include <diffusers/models/unet_2d_condition.h>

#include <torch/types.h>

#include "core/freed_memory.h"
#include "core/require.h"
#include "models/model_config.h"
#include "models/unet/condition_config.h"
#include "models/unet/condition_embedder.h"
#include "models/unet/unet_2d_blocks.h"

namespace diffusers {
namespace {

/// Makes a convolution that is initialised like any other and then set to zero, so that it draws the same
/// random numbers as in Python.
layers::Conv2d zero_conv(int64_t in_channels, int64_t out_channels, const layers::Conv2dOptions& options) {
  layers::Conv2d conv(in_channels, out_channels, options);
  if (!layers::SkipInitGuard::active()) {
    const torch::NoGradGuard no_grad;
    for (auto& parameter : conv->parameters()) parameter.zero_();
  }
  return conv;
}

layers::Conv2d zero_pointwise(int64_t channels) {
  return zero_conv(channels, channels, layers::Conv2dOptions{.kernel_size = 1});
}

ConditionEmbedderOptions controlnet_embedder_options(const ControlNetModelConfig& config) {
  return {.channels = config.block_out_channels[0],
          .time_embed_dim = 4 * config.block_out_channels[0],
          .flip_sin_to_cos = config.flip_sin_to_cos,
          .freq_shift = config.freq_shift,
          .act_fn = layers::activation_from_name(config.act_fn),
          .cross_attention_dim = config.cross_attention_dim,
          .encoder_hid_dim = config.encoder_hid_dim,
          .encoder_hid_dim_type = choice_of(config.encoder_hid_dim_type),
          .class_embed_type = choice_of(config.class_embed_type),
          .num_class_embeds = config.num_class_embeds,
          .projection_class_embeddings_input_dim = config.projection_class_embeddings_input_dim,
          .addition_embed_type = choice_of(config.addition_embed_type),
          .addition_time_embed_dim = config.addition_time_embed_dim,
          .addition_embed_type_num_heads = config.addition_embed_type_num_heads};
}

ControlNetModelConfig config_for_unet(const UNet2DConditionModelConfig& unet,
                                      const ControlNetFromUnetOptions& options) {
  require<ConfigError>(!unet.layers_per_block.is_list(),
                       "ControlNetModel: layers_per_block of the UNet is {}, expected one number",
                       unet.layers_per_block.values());
  require<ConfigError>(!unet.cross_attention_dim.is_list(),
                       "ControlNetModel: cross_attention_dim of the UNet is {}, expected one number",
                       unet.cross_attention_dim.values());
  return {.in_channels = unet.in_channels,
          .conditioning_channels = options.conditioning_channels,
          .flip_sin_to_cos = unet.flip_sin_to_cos,
          .freq_shift = unet.freq_shift,
          .down_block_types = unet.down_block_types,
          .mid_block_type = unet.mid_block_type,
          .only_cross_attention = unet.only_cross_attention,
          .block_out_channels = unet.block_out_channels,
          .layers_per_block = unet.layers_per_block.value(),
          .downsample_padding = unet.downsample_padding,
          .mid_block_scale_factor = unet.mid_block_scale_factor,
          .act_fn = unet.act_fn,
          .norm_num_groups = unet.norm_num_groups,
          .norm_eps = unet.norm_eps,
          .cross_attention_dim = unet.cross_attention_dim.value(),
          .transformer_layers_per_block = unet.transformer_layers_per_block,
          .encoder_hid_dim = unet.encoder_hid_dim,
          .encoder_hid_dim_type = unet.encoder_hid_dim_type,
          .attention_head_dim = unet.attention_head_dim,
          .num_attention_heads = unet.num_attention_heads,
          .use_linear_projection = unet.use_linear_projection,
          .class_embed_type = unet.class_embed_type,
          .addition_embed_type = unet.addition_embed_type,
          .addition_time_embed_dim = unet.addition_time_embed_dim,
          .num_class_embeds = unet.num_class_embeds,
          .upcast_attention = unet.upcast_attention,
          .resnet_time_scale_shift = unet.resnet_time_scale_shift,
          .projection_class_embeddings_input_dim = unet.projection_class_embeddings_input_dim,
          .controlnet_conditioning_channel_order = options.controlnet_conditioning_channel_order,
          .conditioning_embedding_out_channels = options.conditioning_embedding_out_channels};
}

/// Returns true for the parts that Python copies from the UNet. encoder_hid_proj is not copied.
bool is_shared_with_unet(std::string_view name) {
  constexpr std::array<std::string_view, 6> kParts{"conv_in.",       "time_embedding.", "class_embedding.",
                                                   "add_embedding.", "down_blocks.",    "mid_block."};
  return std::any_of(kParts.begin(), kParts.end(), [&](auto part) { return name.starts_with(part); });
}

void copy_weights(const UNet2DConditionModelImpl& unet, const ControlNetModelImpl& controlnet) {
  std::map<std::string, Tensor> sources;
  for (const auto& item : unet.named_parameters())
    if (is_shared_with_unet(item.key())) sources.emplace(item.key(), item.value());
  const torch::NoGradGuard no_grad;
  for (auto& item : controlnet.named_parameters()) {
    if (!is_shared_with_unet(item.key())) continue;
    const auto found = sources.find(item.key());
    require<ConfigError>(found != sources.end() && found->second.sizes() == item.value().sizes(),
                         "ControlNetModel: {} is {}, in the UNet it is {}", item.key(),
                         shape_string(item.value().sizes()),
                         found == sources.end() ? "missing" : shape_string(found->second.sizes()));
    item.value().copy_(found->second);
    sources.erase(found);
  }
  require<ConfigError>(sources.empty(), "ControlNetModel: the UNet has a {}, which a ControlNet has not",
                       sources.empty() ? "" : sources.begin()->first);
}

}  // namespace

ControlNetConditioningEmbeddingImpl::ControlNetConditioningEmbeddingImpl(
    int64_t conditioning_embedding_channels, int64_t conditioning_channels,
    std::vector<int64_t> block_out_channels)
    : blocks_(std::make_shared<layers::ModuleVectorImpl<layers::Conv2d>>()) {
  require<ConfigError>(!block_out_channels.empty(),
                       "conditioning_embedding_out_channels is empty, expected channels of each step");
  const layers::Conv2dOptions same{.kernel_size = 3, .padding = 1};
  const layers::Conv2dOptions halving{.kernel_size = 3, .stride = 2, .padding = 1};
  conv_in_ = register_module("conv_in", layers::Conv2d(conditioning_channels, block_out_channels[0], same));
  for (std::size_t i = 0; i + 1 < block_out_channels.size(); ++i) {
    blocks_->push_back(layers::Conv2d(block_out_channels[i], block_out_channels[i], same));
    blocks_->push_back(layers::Conv2d(block_out_channels[i], block_out_channels[i + 1], halving));
  }
  register_module("blocks", blocks_);
  conv_out_ = register_module("conv_out",
                              zero_conv(block_out_channels.back(), conditioning_embedding_channels, same));
}

Tensor ControlNetConditioningEmbeddingImpl::forward(const Tensor& conditioning) const {
  auto hidden = torch::silu(conv_in_->forward(conditioning));
  for (const auto& block : *blocks_) hidden = torch::silu(block->forward(hidden));
  return conv_out_->forward(hidden);
}

ControlNetModelImpl::ControlNetModelImpl(ControlNetModelConfig config)
    : ModelImpl(with_encoder_hid_dim_type(std::move(config))) {
  build_model(kClassName, [&] { reset(); });
}

void ControlNetModelImpl::reset() {
  check_controlnet_config(config());
  const auto& c = config();
  const auto embedder = controlnet_embedder_options(c);
  check_condition_options(embedder);
  const int64_t channels = c.block_out_channels[0];
  conv_in_ = register_module(
      "conv_in",
      layers::Conv2d(c.in_channels, channels, layers::Conv2dOptions{.kernel_size = 3, .padding = 1}));
  embedder_ = std::make_shared<ConditionEmbedder>(embedder, *this);
  controlnet_cond_embedding_ = register_module(
      "controlnet_cond_embedding", ControlNetConditioningEmbedding(channels, c.conditioning_channels,
                                                                   c.conditioning_embedding_out_channels));
  build_blocks();
  set_gradient_checkpointing(gradient_checkpointing_);
}

void ControlNetModelImpl::build_blocks() {
  const auto& c = config();
  const auto& channels = c.block_out_channels;
  const std::size_t count = channels.size();
  const auto only_cross_attention = c.only_cross_attention.expand(count);
  const auto head_dims = c.attention_head_dim.expand(count);
  const auto heads = c.num_attention_heads.empty() ? head_dims : c.num_attention_heads.expand(count);
  const auto transformer_layers = c.transformer_layers_per_block.expand(count);
  down_blocks_ =
      register_module("down_blocks", std::make_shared<layers::ModuleVectorImpl<UNetBlockPointer>>());
  controlnet_down_blocks_ =
      register_module("controlnet_down_blocks", std::make_shared<layers::ModuleVectorImpl<layers::Conv2d>>());

  UNetBlockOptions options{.temb_channels = 4 * channels[0],
                           .resnet_eps = c.norm_eps,
                           .resnet_act_fn = layers::activation_from_name(c.act_fn),
                           .resnet_groups = c.norm_num_groups,
                           .downsample_padding = c.downsample_padding,
                           .resnet_time_scale_shift = c.resnet_time_scale_shift,
                           .cross_attention_dim = c.cross_attention_dim,
                           .use_linear_projection = c.use_linear_projection};
  options.num_layers = c.layers_per_block;
  controlnet_down_blocks_->push_back(zero_pointwise(channels[0]));
  for (std::size_t i = 0; i < count; ++i) {
    options.in_channels = channels[i == 0 ? 0 : i - 1];
    options.out_channels = channels[i];
    options.add_resample = i + 1 < count;
    options.attention_head_dim = head_dims[i];
    options.num_attention_heads = heads[i];
    options.transformer_layers_per_block = transformer_layers[i];
    options.only_cross_attention = only_cross_attention[i];
    const auto& type = c.down_block_types[i];
    down_blocks_->push_back(build_block(kClassName, fmt::format("down_block_types[{}] = \"{}\"", i, type), c,
                                        [&] { return get_down_block(type, options); }));
    for (int64_t layer = 0; layer < c.layers_per_block + (options.add_resample ? 1 : 0); ++layer)
      controlnet_down_blocks_->push_back(zero_pointwise(channels[i]));
  }

  controlnet_mid_block_ = register_module("controlnet_mid_block", zero_pointwise(channels.back()));
  auto mid = options;
  mid.in_channels = channels.back();
  mid.resnet_out_scale_factor = c.mid_block_scale_factor;
  mid_block_ =
      build_block(kClassName, "mid_block_type", c, [&] { return get_mid_block(*c.mid_block_type, mid); });
  register_module("mid_block", mid_block_);
}

void ControlNetModelImpl::set_gradient_checkpointing(bool enabled) {
  gradient_checkpointing_ = enabled;
  for (const auto& block : *down_blocks_) block->set_gradient_checkpointing(enabled);
  mid_block_->set_gradient_checkpointing(enabled);
}

Tensor ControlNetModelImpl::embed(const Tensor& sample, const Tensor& times,
                                  const Tensor& encoder_hidden_states,
                                  const ControlNetModelForwardOptions& options) const {
  auto temb = embedder_->embed_time(times, options.timestep_cond, sample);
  if (const auto class_embedding = embedder_->embed_class(options.class_labels, sample);
      class_embedding.defined())
    temb = temb + class_embedding;
  // As in Python, the layer for "text_image" is not used.
  if (config().addition_embed_type == EnumChoice(AdditionEmbedType::kTextImage)) return temb;
  const auto addition = embedder_->embed_addition(encoder_hidden_states, options.added_cond_kwargs, sample);
  return addition.defined() ? temb + addition : temb;
}

Tensor ControlNetModelImpl::encode_condition(const Tensor& controlnet_cond, const Tensor& sample,
                                             const Tensor& hidden) const {
  require<TensorError>(controlnet_cond.defined() && controlnet_cond.dim() == 4 &&
                           controlnet_cond.size(0) == sample.size(0) &&
                           controlnet_cond.size(1) == config().conditioning_channels &&
                           controlnet_cond.is_floating_point() && controlnet_cond.device() == sample.device(),
                       "controlnet_cond: expected floating [{}, {}, H, W] on {}, got {}", sample.size(0),
                       config().conditioning_channels, sample.device().str(), describe(controlnet_cond));
  auto image = controlnet_cond.to(sample.scalar_type());
  if (config().controlnet_conditioning_channel_order == ControlNetChannelOrder::kBgr) image = image.flip({1});
  auto encoded = controlnet_cond_embedding_->forward(image);
  require<TensorError>(
      encoded.sizes() == hidden.sizes(),
      "controlnet_cond {} becomes {}, which does not fit the hidden states {} of a sample {}",
      shape_string(controlnet_cond.sizes()), shape_string(encoded.sizes()), shape_string(hidden.sizes()),
      shape_string(sample.sizes()));
  return encoded;
}

ControlNetOutput ControlNetModelImpl::forward(const Tensor& sample, const at::Scalar& timestep,
                                              const Tensor& encoder_hidden_states,
                                              const Tensor& controlnet_cond,
                                              const ControlNetModelForwardOptions& options) const {
  return forward(sample, unet_timestep(timestep), encoder_hidden_states, controlnet_cond, options);
}

ControlNetOutput ControlNetModelImpl::forward(const Tensor& sample, const Tensor& timesteps,
                                              const Tensor& encoder_hidden_states,
                                              const Tensor& controlnet_cond,
                                              const ControlNetModelForwardOptions& options) const {
  const ForwardMemoryScope memory(sample);
  require_image("sample", sample, config().in_channels, conv_in_->weight);
  check_encoder_hidden_states(encoder_hidden_states, sample);
  const auto times = broadcast_unet_timesteps(timesteps, sample);
  const auto hidden = conv_in_->forward(sample);
  UNetState state{.hidden_states = hidden + encode_condition(controlnet_cond, sample, hidden),
                  .temb = embed(sample, times, encoder_hidden_states, options),
                  .residuals = {},
                  .skip_sample = {},
                  .encoder_hidden_states = encoder_hidden_states,
                  .attention_mask = attention_bias(options.attention_mask, sample, "attention_mask")};
  state.residuals.push_back(state.hidden_states);
  for (const auto& block : *down_blocks_) block->run(state);
  mid_block_->run(state);

  const bool pool = config().global_pool_conditions;
  // K blocks leave fewer residuals than there are layers.
  const std::size_t count = std::min(state.residuals.size(), controlnet_down_blocks_->size());
  // Scales grow from 0.1 to 1; the last one is for the mid block.
  const auto scales =
      torch::logspace(-1, 0, static_cast<int64_t>(count) + 1, 10.0, sample.options().dtype(torch::kFloat32)) *
      options.conditioning_scale;
  const auto finish = [&](const layers::Conv2d& conv, const Tensor& residual, std::size_t index) {
    require<ConfigError>(residual.defined() && residual.size(1) == conv->weight.size(1),
                         "down_block_types: a block leaves other residuals than a ControlNet has layers for");
    const auto controlled = conv->forward(residual);
    if (pool) return (controlled * options.conditioning_scale).mean({2, 3}, /*keepdim=*/true);
    return options.guess_mode ? controlled * scales[static_cast<int64_t>(index)]
                              : controlled * options.conditioning_scale;
  };
  ControlNetOutput output;
  for (std::size_t i = 0; i < count; ++i)
    output.down_block_res_samples.push_back(finish((*controlnet_down_blocks_)[i], state.residuals[i], i));
  output.mid_block_res_sample = finish(controlnet_mid_block_, state.hidden_states, count);
  return output;
}

ControlNetModel ControlNetModel::from_unet(const UNet2DConditionModel& unet,
                                           const ControlNetFromUnetOptions& options) {
  ControlNetModel controlnet(config_for_unet(unet->config(), options));
  if (options.load_weights_from_unet) copy_weights(*unet, *controlnet);
  return controlnet;
}

}  // namespace diffusers
