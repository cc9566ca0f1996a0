#include "models/unet/unet_2d_condition.h"

#include <algorithm>

#include <diffusers/core/logging.h>

#include <torch/types.h>

#include "core/freed_memory.h"
#include "core/require.h"
#include "models/model_config.h"
#include "models/unet/condition_config.h"
#include "models/unet/condition_embedder.h"
#include "models/unet/unet_2d_blocks.h"

namespace diffusers {
namespace {

int64_t time_embed_dim_of(const UNet2DConditionModelConfig& config) {
  const bool fourier = config.time_embedding_type == TimeEmbeddingType::kFourier;
  return config.time_embedding_dim.value_or((fourier ? 2 : 4) * config.block_out_channels[0]);
}

ConditionEmbedderOptions embedder_options(const UNet2DConditionModelConfig& config) {
  const auto act_fn = layers::activation_from_name(config.act_fn);
  std::optional<layers::Activation> post_act;
  if (config.timestep_post_act)
    post_act = layers::activation_from_name(*config.timestep_post_act, "timestep_post_act");
  return {.channels = config.block_out_channels[0],
          .time_embed_dim = time_embed_dim_of(config),
          .flip_sin_to_cos = config.flip_sin_to_cos,
          .freq_shift = config.freq_shift,
          .fourier = config.time_embedding_type == TimeEmbeddingType::kFourier,
          .act_fn = act_fn,
          .class_act_fn = act_fn,
          .timestep_post_act = post_act,
          .time_cond_proj_dim = config.time_cond_proj_dim,
          .cross_attention_dim = config.cross_attention_dim.value(),
          .encoder_hid_dim = config.encoder_hid_dim,
          .encoder_hid_dim_type = choice_of(config.encoder_hid_dim_type),
          .class_embed_type = choice_of(config.class_embed_type),
          .num_class_embeds = config.num_class_embeds,
          .projection_class_embeddings_input_dim = config.projection_class_embeddings_input_dim,
          .addition_embed_type = choice_of(config.addition_embed_type),
          .addition_time_embed_dim = config.addition_time_embed_dim,
          .addition_embed_type_num_heads = config.addition_embed_type_num_heads};
}

/// Iterates over the residuals of T2I-adapters.
class AdapterResiduals {
 public:
  explicit AdapterResiduals(const UNet2DConditionModelForwardOptions& options)
      : residuals_(options.down_intrablock_additional_residuals) {
    if (residuals_.empty() && !options.mid_block_additional_residual.defined() &&
        !options.down_block_additional_residuals.empty()) {
      warn_once(
          "down_block_additional_residuals without mid_block_additional_residual are taken for those of a "
          "T2I-Adapter: pass them as down_intrablock_additional_residuals");
      residuals_ = options.down_block_additional_residuals;
    }
  }
  bool empty() const { return next_ == residuals_.size(); }
  const Tensor& front() const { return residuals_[next_]; }
  const Tensor& take() { return residuals_[next_++]; }

 private:
  std::vector<Tensor> residuals_;
  std::size_t next_ = 0;
};

void run_down_block(const UNetBlock& block, UNetState& state, AdapterResiduals& adapter) {
  const auto place = block.adapter_place();
  state.additional_residual = Tensor();
  if (!adapter.empty()) {
    require<ConfigError>(place != AdapterPlace::kNone,
                         "down_intrablock_additional_residuals: the SimpleCrossAttn and KCrossAttn blocks of "
                         "down_block_types take none");
    if (place == AdapterPlace::kInside) state.additional_residual = adapter.take();
  }
  block.run(state);
  if (place != AdapterPlace::kAfter || adapter.empty()) return;
  const auto sum = state.hidden_states + fitting_residual(adapter.take(), state.hidden_states);
  // Python adds in place, so the up blocks receive the sum, too.
  if (state.residuals.back().is_same(state.hidden_states)) state.residuals.back() = sum;
  state.hidden_states = sum;
}

void add_control_residuals(UNetState& state, const std::vector<Tensor>& additional) {
  require<TensorError>(additional.size() == state.residuals.size(),
                       "down_block_additional_residuals: expected {} tensors, got {}", state.residuals.size(),
                       additional.size());
  for (std::size_t i = 0; i < additional.size(); ++i) {
    auto& residual = state.residuals[i];
    require<ConfigError>(residual.defined(),
                         "down_block_additional_residuals: a KCrossAttnDownBlock2D at the lowest resolution "
                         "leaves nothing to add to");
    residual = residual + fitting_residual(additional[i], residual);
  }
}

}  // namespace

UNet2DConditionModelImpl::UNet2DConditionModelImpl(UNet2DConditionModelConfig config)
    : ModelImpl(with_encoder_hid_dim_type(std::move(config))) {
  build_model(kClassName, [&] { reset(); });
}

void UNet2DConditionModelImpl::reset() {
  check_condition_config(config());
  const auto& c = config();
  const auto embedder = embedder_options(c);
  check_condition_options(embedder);
  act_fn_ = layers::activation_from_name(c.act_fn);
  time_embedding_act_fn_.reset();
  if (c.time_embedding_act_fn)
    time_embedding_act_fn_ = layers::activation_from_name(*c.time_embedding_act_fn, "time_embedding_act_fn");

  const int64_t channels = c.block_out_channels[0];
  const auto edge = [](int64_t kernel) {
    return layers::Conv2dOptions{.kernel_size = kernel, .padding = (kernel - 1) / 2};
  };
  conv_in_ = register_module("conv_in", layers::Conv2d(c.in_channels, channels, edge(c.conv_in_kernel)));
  embedder_ = std::make_shared<ConditionEmbedder>(embedder, *this);
  build_blocks();
  if (c.norm_num_groups) {
    build_block(kClassName, "conv_norm_out", c, [&] {
      conv_norm_out_ =
          register_module("conv_norm_out", layers::GroupNorm(*c.norm_num_groups, channels, c.norm_eps));
      return 0;
    });
  }
  conv_out_ = register_module("conv_out", layers::Conv2d(channels, c.out_channels, edge(c.conv_out_kernel)));
  set_gradient_checkpointing(gradient_checkpointing_);
}

void UNet2DConditionModelImpl::build_blocks() {
  const auto& c = config();
  const auto& channels = c.block_out_channels;
  const std::size_t count = channels.size();
  const auto only_cross_attention = c.only_cross_attention.expand(count);
  const auto layers_per_block = c.layers_per_block.expand(count);
  const auto cross_attention_dim = c.cross_attention_dim.expand(count);
  const auto heads = c.attention_head_dim.expand(count);
  const auto transformer_layers = c.transformer_layers_per_block.expand(count);
  const auto& reverse_transformer_layers = c.reverse_transformer_layers_per_block;
  down_blocks_ =
      register_module("down_blocks", std::make_shared<layers::ModuleVectorImpl<UNetBlockPointer>>());
  up_blocks_ = register_module("up_blocks", std::make_shared<layers::ModuleVectorImpl<UNetBlockPointer>>());

  UNetBlockOptions options{
      .temb_channels = (c.class_embeddings_concat ? 2 : 1) * time_embed_dim_of(c),
      .resnet_eps = c.norm_eps,
      .resnet_act_fn = layers::activation_from_name(c.act_fn),
      .resnet_groups = c.norm_num_groups,
      .downsample_padding = c.downsample_padding,
      .resnet_time_scale_shift = c.resnet_time_scale_shift,
      .resnet_skip_time_act = c.resnet_skip_time_act,
      .resnet_out_scale_factor = c.resnet_out_scale_factor,
      .dropout = c.dropout,
      .dual_cross_attention = c.dual_cross_attention,
      .use_linear_projection = c.use_linear_projection,
      .cross_attention_norm = choice_of(c.cross_attention_norm).value_or(CrossAttentionNorm::kNone)};
  const auto set_level = [&](std::size_t level) {
    options.out_channels = channels[level];
    options.num_layers = layers_per_block[level];
    options.cross_attention_dim = cross_attention_dim[level];
    options.num_attention_heads = heads[level];
    options.transformer_layers_per_block = transformer_layers[level];
    options.only_cross_attention = only_cross_attention[level];
  };
  for (std::size_t i = 0; i < count; ++i) {
    set_level(i);
    options.in_channels = channels[i == 0 ? 0 : i - 1];
    options.add_resample = i + 1 < count;
    options.attention_head_dim = heads[i];
    const auto& type = c.down_block_types[i];
    down_blocks_->push_back(build_block(kClassName, fmt::format("down_block_types[{}] = \"{}\"", i, type), c,
                                        [&] { return get_down_block(type, options); }));
  }

  if (c.mid_block_type) {
    auto mid = options;
    mid.in_channels = channels.back();
    mid.resnet_out_scale_factor = c.mid_block_scale_factor;
    mid.only_cross_attention = c.mid_block_only_cross_attention.value_or(!c.only_cross_attention.is_list() &&
                                                                         c.only_cross_attention.value());
    mid_block_ =
        build_block(kClassName, "mid_block_type", c, [&] { return get_mid_block(*c.mid_block_type, mid); });
    register_module("mid_block", mid_block_);
  }

  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t level = count - 1 - i;
    set_level(level);
    ++options.num_layers;
    if (!reverse_transformer_layers.empty())
      options.transformer_layers_per_block = reverse_transformer_layers.values()[i];
    options.prev_output_channel = channels[i == 0 ? level : level + 1];
    options.in_channels = channels[level == 0 ? 0 : level - 1];
    options.add_resample = i + 1 < count;
    options.attention_head_dim = heads[i];  // as in Python, this list is not reversed
    const auto& type = c.up_block_types[i];
    up_blocks_->push_back(build_block(kClassName, fmt::format("up_block_types[{}] = \"{}\"", i, type), c,
                                      [&] { return get_up_block(type, options); }));
  }
}

void UNet2DConditionModelImpl::set_gradient_checkpointing(bool enabled) {
  gradient_checkpointing_ = enabled;
  for (const auto& block : *down_blocks_) block->set_gradient_checkpointing(enabled);
  if (mid_block_) mid_block_->set_gradient_checkpointing(enabled);
  for (const auto& block : *up_blocks_) block->set_gradient_checkpointing(enabled);
}

UNetState UNet2DConditionModelImpl::start(const Tensor& sample, const Tensor& times,
                                          const Tensor& encoder_hidden_states,
                                          const UNet2DConditionModelForwardOptions& options) const {
  const auto& c = config();
  auto input = c.center_input_sample ? 2 * sample - 1.0 : sample;
  auto temb = embedder_->embed_time(times, options.timestep_cond, sample);
  if (const auto class_embedding = embedder_->embed_class(options.class_labels, sample);
      class_embedding.defined()) {
    temb = c.class_embeddings_concat ? torch::cat({temb, class_embedding.expand_as(temb)}, -1)
                                     : temb + class_embedding;
  }
  if (const auto addition =
          embedder_->embed_addition(encoder_hidden_states, options.added_cond_kwargs, sample);
      addition.defined())
    temb = temb + addition;
  if (c.addition_embed_type == AdditionEmbedType::kImageHint)
    input = torch::cat({input, embedder_->encode_hint(options.added_cond_kwargs, sample)}, 1);
  if (time_embedding_act_fn_) temb = layers::activate(*time_embedding_act_fn_, temb);

  UNetState state{.hidden_states = conv_in_->forward(input),
                  .temb = temb,
                  .residuals = {},
                  .skip_sample = {},
                  .encoder_hidden_states =
                      embedder_->project_encoder(encoder_hidden_states, options.added_cond_kwargs, sample),
                  .attention_mask = attention_bias(options.attention_mask, sample, "attention_mask"),
                  .encoder_attention_mask =
                      attention_bias(options.encoder_attention_mask, sample, "encoder_attention_mask")};
  const int64_t factor = int64_t{1} << (c.up_block_types.size() - 1);
  state.forward_upsample_size = sample.size(2) % factor != 0 || sample.size(3) % factor != 0;
  state.residuals.push_back(state.hidden_states);
  return state;
}

void UNet2DConditionModelImpl::run_blocks(UNetState& state,
                                          const UNet2DConditionModelForwardOptions& options) const {
  const bool has_down = !options.down_block_additional_residuals.empty();
  const bool has_mid = options.mid_block_additional_residual.defined();
  require<TensorError>(!has_mid || has_down,
                       "mid_block_additional_residual: expected down_block_additional_residuals with it");
  require<TensorError>(!has_down || has_mid || options.down_intrablock_additional_residuals.empty(),
                       "down_block_additional_residuals: expected mid_block_additional_residual with them");
  AdapterResiduals adapter(options);
  for (const auto& block : *down_blocks_) run_down_block(*block, state, adapter);
  state.additional_residual = Tensor();
  if (has_mid) add_control_residuals(state, options.down_block_additional_residuals);

  if (mid_block_) {
    mid_block_->run(state);
    // The last residual of an adapter for SDXL.
    if (!adapter.empty() && adapter.front().defined() &&
        adapter.front().sizes() == state.hidden_states.sizes())
      state.hidden_states = state.hidden_states + adapter.take();
  }
  if (!adapter.empty()) warn_once("not all down_intrablock_additional_residuals were used");
  if (has_mid) {
    state.hidden_states =
        state.hidden_states + fitting_residual(options.mid_block_additional_residual, state.hidden_states);
  }
  state.freeu = freeu_;
  for (state.up_block_index = 0; state.up_block_index < up_blocks_->size(); ++state.up_block_index)
    (*up_blocks_)[state.up_block_index]->run(state);
}

void UNet2DConditionModelImpl::enable_freeu(double s1, double s2, double b1, double b2) {
  // As in Python, a factor of zero disables FreeU.
  const bool enabled = s1 != 0 && s2 != 0 && b1 != 0 && b2 != 0;
  freeu_ = enabled ? std::optional(FreeU{.s1 = s1, .s2 = s2, .b1 = b1, .b2 = b2}) : std::nullopt;
}

UNet2DConditionOutput UNet2DConditionModelImpl::forward(
    const Tensor& sample, const at::Scalar& timestep, const Tensor& encoder_hidden_states,
    const UNet2DConditionModelForwardOptions& options) const {
  return forward(sample, unet_timestep(timestep), encoder_hidden_states, options);
}

UNet2DConditionOutput UNet2DConditionModelImpl::forward(
    const Tensor& sample, const Tensor& timesteps, const Tensor& encoder_hidden_states,
    const UNet2DConditionModelForwardOptions& options) const {
  const ForwardMemoryScope memory(sample);
  const auto& c = config();
  const bool hint = c.addition_embed_type == AdditionEmbedType::kImageHint;
  require_image("sample", sample, c.in_channels - (hint ? ImageHintTimeEmbeddingImpl::kSampleChannels : 0),
                conv_in_->weight);
  auto state = start(sample, broadcast_unet_timesteps(timesteps, sample), encoder_hidden_states, options);
  run_blocks(state, options);
  auto output = state.hidden_states;
  if (conv_norm_out_) output = layers::norm_activate(conv_norm_out_, act_fn_, output);
  return {conv_out_->forward(output)};
}

}  // namespace diffusers
