#include <algorithm>

#include "models/model_config.h"
#include "models/unet/condition_config.h"
#include "models/unet/condition_embedder.h"
#include "models/unet/unet_2d_condition.h"

namespace diffusers {

template <class Visitor>
void visit_fields(UNet2DConditionModelConfig& config, Visitor&& visit) {
  visit("sample_size", config.sample_size);
  visit("in_channels", config.in_channels);
  visit("out_channels", config.out_channels);
  visit("center_input_sample", config.center_input_sample);
  visit("flip_sin_to_cos", config.flip_sin_to_cos);
  visit("freq_shift", config.freq_shift);
  visit("down_block_types", config.down_block_types);
  visit("mid_block_type", config.mid_block_type);
  visit("up_block_types", config.up_block_types);
  visit("only_cross_attention", config.only_cross_attention);
  visit("block_out_channels", config.block_out_channels);
  visit("layers_per_block", config.layers_per_block);
  visit("downsample_padding", config.downsample_padding);
  visit("mid_block_scale_factor", config.mid_block_scale_factor);
  visit("dropout", config.dropout);
  visit("act_fn", config.act_fn);
  visit("norm_num_groups", config.norm_num_groups);
  visit("norm_eps", config.norm_eps);
  visit("cross_attention_dim", config.cross_attention_dim);
  visit("transformer_layers_per_block", config.transformer_layers_per_block);
  visit("reverse_transformer_layers_per_block", config.reverse_transformer_layers_per_block);
  visit("encoder_hid_dim", config.encoder_hid_dim);
  visit("encoder_hid_dim_type", config.encoder_hid_dim_type);
  visit("attention_head_dim", config.attention_head_dim);
  visit("num_attention_heads", config.num_attention_heads);
  visit("dual_cross_attention", config.dual_cross_attention);
  visit("use_linear_projection", config.use_linear_projection);
  visit("class_embed_type", config.class_embed_type);
  visit("addition_embed_type", config.addition_embed_type);
  visit("addition_time_embed_dim", config.addition_time_embed_dim);
  visit("num_class_embeds", config.num_class_embeds);
  visit("upcast_attention", config.upcast_attention);
  visit("resnet_time_scale_shift", config.resnet_time_scale_shift);
  visit("resnet_skip_time_act", config.resnet_skip_time_act);
  visit("resnet_out_scale_factor", config.resnet_out_scale_factor);
  visit("time_embedding_type", config.time_embedding_type);
  visit("time_embedding_dim", config.time_embedding_dim);
  visit("time_embedding_act_fn", config.time_embedding_act_fn);
  visit("timestep_post_act", config.timestep_post_act);
  visit("time_cond_proj_dim", config.time_cond_proj_dim);
  visit("conv_in_kernel", config.conv_in_kernel);
  visit("conv_out_kernel", config.conv_out_kernel);
  visit("projection_class_embeddings_input_dim", config.projection_class_embeddings_input_dim);
  visit("attention_type", config.attention_type);
  visit("class_embeddings_concat", config.class_embeddings_concat);
  visit("mid_block_only_cross_attention", config.mid_block_only_cross_attention);
  visit("cross_attention_norm", config.cross_attention_norm);
  visit("addition_embed_type_num_heads", config.addition_embed_type_num_heads);
}

void read_model_config(std::string_view json, std::string_view where, UNet2DConditionModelConfig& config,
                       std::string& source, LoadReport& report) {
  read_config_fields(json, where, UNet2DConditionModelImpl::kClassName, config, source, report,
                     {"center_input_sample", "dual_cross_attention", "use_linear_projection",
                      "upcast_attention", "resnet_skip_time_act", "class_embeddings_concat"});
  keep_encoder_hid_dim_type(config, source);
}

std::string write_model_config(const UNet2DConditionModelConfig& config, std::string_view source) {
  return write_config_fields(config, source, UNet2DConditionModelImpl::kClassName,
                             {"mid_block_scale_factor"});
}

void internal::check_condition_config(const UNet2DConditionModelConfig& config) {
  check_sample_size(config.sample_size);
  check_shared_fields(config);
  require_positive("out_channels", config.out_channels);
  require_positive("time_embedding_dim", config.time_embedding_dim);
  require_positive("conv_in_kernel", config.conv_in_kernel);
  require_positive("conv_out_kernel", config.conv_out_kernel);
  for (const auto layers : config.layers_per_block.values())
    require_positive("layers_per_block", layers, kMostLayers);
  for (const auto width : config.cross_attention_dim.values()) require_positive("cross_attention_dim", width);

  const auto blocks = config.block_out_channels.size();
  require<ConfigError>(config.up_block_types.size() == blocks,
                       "up_block_types has {} and block_out_channels {} elements, expected as many of each",
                       config.up_block_types.size(), blocks);
  require_no_skip_blocks("up_block_types", config.up_block_types);
  require_one_for_each("layers_per_block", config.layers_per_block, blocks);
  require_one_for_each("cross_attention_dim", config.cross_attention_dim, blocks);
  require<ConfigError>(
      config.num_attention_heads.empty(),
      "num_attention_heads is {}, expected none: attention_head_dim stands for it, as in Python",
      config.num_attention_heads.values());
  const auto& reverse = config.reverse_transformer_layers_per_block;
  const auto& layers = config.transformer_layers_per_block.values();
  require<ConfigError>(reverse.empty() || reverse.is_list(),
                       "reverse_transformer_layers_per_block is a number, expected a list");
  if (!reverse.empty()) check_transformer_layers("reverse_transformer_layers_per_block", reverse, blocks);
  require<ConfigError>(!reverse.empty() || std::none_of(layers.begin(), layers.end(),
                                                        [](const auto& e) { return e.is_list(); }),
                       "transformer_layers_per_block has a list for a block, which needs "
                       "reverse_transformer_layers_per_block");

  require_factor("resnet_out_scale_factor", config.resnet_out_scale_factor);
  require<ConfigError>(config.dropout >= 0 && config.dropout <= 1,
                       "dropout is {}, expected a probability in [0, 1]", config.dropout);
  require<ConfigError>(config.time_embedding_type != TimeEmbeddingType::kLearned,
                       "time_embedding_type is \"learned\", expected \"positional\" or \"fourier\"");
  require<ConfigError>(config.attention_type == TransformerAttentionType::kDefault,
                       "attention_type is \"{}\" (GLIGEN), which is not supported; expected \"default\"",
                       config.attention_type.name());
  const bool adds_text = config.addition_embed_type == AdditionEmbedType::kText ||
                         config.addition_embed_type == AdditionEmbedType::kTextImage;
  require<ConfigError>(
      !config.cross_attention_dim.is_list() || (!config.encoder_hid_dim_type && !adds_text),
      "cross_attention_dim is {}, expected one number where there is an encoder_hid_dim_type or "
      "the addition_embed_type \"text\" or \"text_image\"",
      config.cross_attention_dim.values());
  require<ConfigError>(
      !config.class_embeddings_concat ||
          ((config.class_embed_type || config.num_class_embeds) && !config.addition_embed_type),
      "class_embeddings_concat is true, which needs class_embed_type or num_class_embeds and no "
      "addition_embed_type");
  const bool hint = config.addition_embed_type == AdditionEmbedType::kImageHint;
  require<ConfigError>(!hint || config.in_channels > ImageHintTimeEmbeddingImpl::kSampleChannels,
                       "in_channels is {}, but addition_embed_type \"image_hint\" alone gives {} channels",
                       config.in_channels, ImageHintTimeEmbeddingImpl::kSampleChannels);
}

}  // namespace diffusers
