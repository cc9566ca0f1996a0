#include <algorithm>

#include "models/control/controlnet.h"
#include "models/model_config.h"
#include "models/unet/condition_config.h"
#include "models/unet/condition_embedder.h"

namespace diffusers {

template <class Visitor>
void visit_fields(ControlNetModelConfig& config, Visitor&& visit) {
  visit("in_channels", config.in_channels);
  visit("conditioning_channels", config.conditioning_channels);
  visit("flip_sin_to_cos", config.flip_sin_to_cos);
  visit("freq_shift", config.freq_shift);
  visit("down_block_types", config.down_block_types);
  visit("mid_block_type", config.mid_block_type);
  visit("only_cross_attention", config.only_cross_attention);
  visit("block_out_channels", config.block_out_channels);
  visit("layers_per_block", config.layers_per_block);
  visit("downsample_padding", config.downsample_padding);
  visit("mid_block_scale_factor", config.mid_block_scale_factor);
  visit("act_fn", config.act_fn);
  visit("norm_num_groups", config.norm_num_groups);
  visit("norm_eps", config.norm_eps);
  visit("cross_attention_dim", config.cross_attention_dim);
  visit("transformer_layers_per_block", config.transformer_layers_per_block);
  visit("encoder_hid_dim", config.encoder_hid_dim);
  visit("encoder_hid_dim_type", config.encoder_hid_dim_type);
  visit("attention_head_dim", config.attention_head_dim);
  visit("num_attention_heads", config.num_attention_heads);
  visit("use_linear_projection", config.use_linear_projection);
  visit("class_embed_type", config.class_embed_type);
  visit("addition_embed_type", config.addition_embed_type);
  visit("addition_time_embed_dim", config.addition_time_embed_dim);
  visit("num_class_embeds", config.num_class_embeds);
  visit("upcast_attention", config.upcast_attention);
  visit("resnet_time_scale_shift", config.resnet_time_scale_shift);
  visit("projection_class_embeddings_input_dim", config.projection_class_embeddings_input_dim);
  visit("controlnet_conditioning_channel_order", config.controlnet_conditioning_channel_order);
  visit("conditioning_embedding_out_channels", config.conditioning_embedding_out_channels);
  visit("global_pool_conditions", config.global_pool_conditions);
  visit("addition_embed_type_num_heads", config.addition_embed_type_num_heads);
}

void read_model_config(std::string_view json, std::string_view where, ControlNetModelConfig& config,
                       std::string& source, LoadReport& report) {
  read_config_fields(json, where, ControlNetModelImpl::kClassName, config, source, report,
                     {"use_linear_projection", "upcast_attention", "global_pool_conditions"});
  keep_encoder_hid_dim_type(config, source);
}

std::string write_model_config(const ControlNetModelConfig& config, std::string_view source) {
  return write_config_fields(config, source, ControlNetModelImpl::kClassName, {"mid_block_scale_factor"});
}

void internal::check_controlnet_config(const ControlNetModelConfig& config) {
  check_shared_fields(config);
  require_positive("conditioning_channels", config.conditioning_channels);
  require_positive("layers_per_block", config.layers_per_block, kMostLayers);
  require_positive("cross_attention_dim", config.cross_attention_dim);
  for (const auto heads : config.num_attention_heads.values()) require_positive("num_attention_heads", heads);
  if (!config.num_attention_heads.empty()) {
    require_one_for_each("num_attention_heads", config.num_attention_heads, config.block_out_channels.size());
  }
  require<ConfigError>(!config.conditioning_embedding_out_channels.empty(),
                       "conditioning_embedding_out_channels is empty, expected channels of each step");
  for (const auto channels : config.conditioning_embedding_out_channels)
    require_positive("conditioning_embedding_out_channels", channels);
  require<ConfigError>(config.mid_block_type && (*config.mid_block_type == "UNetMidBlock2DCrossAttn" ||
                                                 *config.mid_block_type == "UNetMidBlock2D"),
                       "mid_block_type is {}, expected \"UNetMidBlock2DCrossAttn\" or \"UNetMidBlock2D\"",
                       config.mid_block_type ? '"' + *config.mid_block_type + '"' : "null");
  require<ConfigError>(
      config.encoder_hid_dim_type != EnumChoice(EncoderHidDimType::kImageProj),
      "encoder_hid_dim_type is \"image_proj\", expected \"text_proj\", \"text_image_proj\" or null");
  require<ConfigError>(config.class_embed_type != EnumChoice(ClassEmbedType::kSimpleProjection),
                       "class_embed_type is \"simple_projection\", expected \"timestep\", \"identity\", "
                       "\"projection\" or null");
  require<ConfigError>(
      config.addition_embed_type != EnumChoice(AdditionEmbedType::kImage) &&
          config.addition_embed_type != EnumChoice(AdditionEmbedType::kImageHint),
      "addition_embed_type is \"{}\", expected \"text\", \"text_image\", \"text_time\" or null",
      config.addition_embed_type.value_or(AdditionEmbedType::kText).name());
}

}  // namespace diffusers
