#include <algorithm>

#include <diffusers/models/unet_2d.h>

#include <torch/types.h>

#include "core/freed_memory.h"
#include "core/require.h"
#include "models/checks.h"
#include "models/model_config.h"
#include "models/unet/block_fields.h"
#include "models/unet/unet_inputs.h"

namespace diffusers {

template <class Visitor>
void visit_fields(UNet2DModelConfig& config, Visitor&& visit) {
  visit("sample_size", config.sample_size);
  visit("in_channels", config.in_channels);
  visit("out_channels", config.out_channels);
  visit("center_input_sample", config.center_input_sample);
  visit("time_embedding_type", config.time_embedding_type);
  visit("time_embedding_dim", config.time_embedding_dim);
  visit("freq_shift", config.freq_shift);
  visit("flip_sin_to_cos", config.flip_sin_to_cos);
  visit("down_block_types", config.down_block_types);
  visit("mid_block_type", config.mid_block_type);
  visit("up_block_types", config.up_block_types);
  visit("block_out_channels", config.block_out_channels);
  visit("layers_per_block", config.layers_per_block);
  visit("mid_block_scale_factor", config.mid_block_scale_factor);
  visit("downsample_padding", config.downsample_padding);
  visit("downsample_type", config.downsample_type);
  visit("upsample_type", config.upsample_type);
  visit("dropout", config.dropout);
  visit("act_fn", config.act_fn);
  visit("attention_head_dim", config.attention_head_dim);
  visit("norm_num_groups", config.norm_num_groups);
  visit("attn_norm_num_groups", config.attn_norm_num_groups);
  visit("norm_eps", config.norm_eps);
  visit("resnet_time_scale_shift", config.resnet_time_scale_shift);
  visit("add_attention", config.add_attention);
  visit("class_embed_type", config.class_embed_type);
  visit("num_class_embeds", config.num_class_embeds);
  visit("num_train_timesteps", config.num_train_timesteps);
}

void read_model_config(std::string_view json, std::string_view where, UNet2DModelConfig& config,
                       std::string& source, LoadReport& report) {
  read_config_fields(json, where, UNet2DModelImpl::kClassName, config, source, report);
}

std::string write_model_config(const UNet2DModelConfig& config, std::string_view source) {
  return write_config_fields(config, source, UNet2DModelImpl::kClassName, {"mid_block_scale_factor"});
}

namespace {

bool is_skip_block(const std::string& type) { return type.find("Skip") != std::string::npos; }

/// Checks the combination of fields, which the layers cannot check on their own.
void check_config(const UNet2DModelConfig& config) {
  check_sample_size(config.sample_size);
  check_block_fields(config);
  require_positive("out_channels", config.out_channels);
  require_positive("time_embedding_dim", config.time_embedding_dim);
  require_positive("layers_per_block", config.layers_per_block, kMostLayers);
  require_positive("attention_head_dim", config.attention_head_dim);
  require_positive("attn_norm_num_groups", config.attn_norm_num_groups);
  require_positive("num_class_embeds", config.num_class_embeds, INT32_MAX);
  require_positive("num_train_timesteps", config.num_train_timesteps, INT32_MAX);

  const auto blocks = config.block_out_channels.size();
  require<ConfigError>(
      config.down_block_types.size() == blocks && config.up_block_types.size() == blocks,
      "down_block_types has {}, up_block_types {} and block_out_channels {} elements, expected as many "
      "of each",
      config.down_block_types.size(), config.up_block_types.size(), blocks);
  require<ConfigError>(!config.mid_block_type || *config.mid_block_type == "UNetMidBlock2D",
                       "mid_block_type is \"{}\", expected \"UNetMidBlock2D\" or null",
                       config.mid_block_type.value_or(""));
  require<ConfigError>(config.dropout >= 0 && config.dropout <= 1,
                       "dropout is {}, expected a probability in [0, 1]", config.dropout);
  require<ConfigError>(
      config.time_embedding_type != TimeEmbeddingType::kLearned || config.num_train_timesteps,
      "time_embedding_type \"learned\" needs num_train_timesteps");
  require<ConfigError>(!config.class_embed_type || *config.class_embed_type == ClassEmbedType::kTimestep ||
                           *config.class_embed_type == ClassEmbedType::kIdentity,
                       "class_embed_type is \"{}\", expected \"timestep\", \"identity\" or null",
                       config.class_embed_type.value_or(ClassEmbedType::kTimestep).name());
  const int64_t half = config.block_out_channels[0] / 2;
  require<ConfigError>(
      config.time_embedding_type != TimeEmbeddingType::kPositional || half == 0 || half != config.freq_shift,
      "freq_shift is {}, which with block_out_channels[0] = {} divides by zero in the time embedding",
      config.freq_shift, config.block_out_channels[0]);

  const auto skips = [&](const std::vector<std::string>& types) {
    return std::any_of(types.begin(), types.end() - 1, is_skip_block);
  };
  require<ConfigError>(
      !skips(config.down_block_types) || config.in_channels == 3,
      "in_channels is {}, but the Skip blocks of down_block_types take an image of 3 channels",
      config.in_channels);
  require<ConfigError>(
      !skips(config.up_block_types) || config.out_channels == 3,
      "out_channels is {}, but the Skip blocks of up_block_types give an image of 3 channels",
      config.out_channels);
}

}  // namespace

UNet2DModelImpl::UNet2DModelImpl(UNet2DModelConfig config) : ModelImpl(std::move(config)) {
  build_model(kClassName, [&] { reset(); });
}

void UNet2DModelImpl::reset() {
  check_config(config());
  const auto& c = config();
  time_embed_dim_ = c.time_embedding_dim.value_or(4 * c.block_out_channels[0]);
  const layers::Conv2dOptions conv3x3{.kernel_size = 3, .padding = 1};

  conv_in_ = register_module("conv_in", layers::Conv2d(c.in_channels, c.block_out_channels[0], conv3x3));
  build_time_embedding();
  build_blocks();
  build_block(kClassName, "conv_norm_out", c, [&] {
    const auto channels = c.block_out_channels[0];
    const auto groups = c.norm_num_groups.value_or(std::min<int64_t>(channels / 4, 32));
    conv_norm_out_ = register_module("conv_norm_out", layers::GroupNorm(groups, channels, c.norm_eps));
    return 0;
  });
  conv_out_ = register_module("conv_out", layers::Conv2d(c.block_out_channels[0], c.out_channels, conv3x3));
  set_gradient_checkpointing(gradient_checkpointing_);
}

void UNet2DModelImpl::build_time_embedding() {
  const auto& c = config();
  const int64_t channels = c.block_out_channels[0];
  int64_t features = channels;
  switch (c.time_embedding_type.value()) {
    case TimeEmbeddingType::kPositional:
      break;
    case TimeEmbeddingType::kFourier:
      time_proj_fourier_ =
          register_module("time_proj", GaussianFourierProjection(GaussianFourierProjectionOptions{
                                           .embedding_size = channels, .scale = 16}));
      features = 2 * channels;
      break;
    case TimeEmbeddingType::kLearned:
      time_proj_learned_ = register_module("time_proj", layers::Embedding(*c.num_train_timesteps, channels));
      break;
  }
  time_embedding_ = register_module("time_embedding", TimestepEmbedding(features, time_embed_dim_));
  if (!c.class_embed_type && c.num_class_embeds) {
    class_table_ =
        register_module("class_embedding", layers::Embedding(*c.num_class_embeds, time_embed_dim_));
  } else if (c.class_embed_type == ClassEmbedType::kTimestep) {
    class_timestep_ = register_module("class_embedding", TimestepEmbedding(features, time_embed_dim_));
  }
}

void UNet2DModelImpl::build_blocks() {
  const auto& c = config();
  const auto& channels = c.block_out_channels;
  const std::size_t count = channels.size();
  down_blocks_ =
      register_module("down_blocks", std::make_shared<layers::ModuleVectorImpl<UNetBlockPointer>>());
  up_blocks_ = register_module("up_blocks", std::make_shared<layers::ModuleVectorImpl<UNetBlockPointer>>());

  UNetBlockOptions options{.temb_channels = time_embed_dim_,
                           .resnet_eps = c.norm_eps,
                           .resnet_act_fn = layers::activation_from_name(c.act_fn),
                           .resnet_groups = c.norm_num_groups,
                           .downsample_padding = c.downsample_padding,
                           .downsample_type = c.downsample_type,
                           .upsample_type = c.upsample_type,
                           .resnet_time_scale_shift = c.resnet_time_scale_shift,
                           .dropout = c.dropout};
  options.num_layers = c.layers_per_block;
  for (std::size_t i = 0; i < count; ++i) {
    options.in_channels = channels[i == 0 ? 0 : i - 1];
    options.out_channels = channels[i];
    options.add_resample = i + 1 < count;
    options.attention_head_dim = c.attention_head_dim.value_or(options.out_channels);
    const auto& type = c.down_block_types[i];
    down_blocks_->push_back(build_block(kClassName, fmt::format("down_block_types[{}] = \"{}\"", i, type), c,
                                        [&] { return get_down_block(type, options); }));
  }

  if (c.mid_block_type) {
    const UNetMidBlock2DOptions mid{.in_channels = channels.back(),
                                    .temb_channels = time_embed_dim_,
                                    .dropout = c.dropout,
                                    .resnet_eps = c.norm_eps,
                                    .resnet_time_scale_shift = c.resnet_time_scale_shift,
                                    .resnet_act_fn = options.resnet_act_fn,
                                    .resnet_groups = c.norm_num_groups,
                                    .attn_groups = c.attn_norm_num_groups,
                                    .add_attention = c.add_attention,
                                    .attention_head_dim = c.attention_head_dim.value_or(channels.back()),
                                    .output_scale_factor = c.mid_block_scale_factor};
    mid_block_ = build_block(kClassName, "mid_block_type = \"UNetMidBlock2D\"", c,
                             [&] { return UNetMidBlock2D(mid); });
    register_module("mid_block", mid_block_);
  }

  options.num_layers = c.layers_per_block + 1;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t level = count - 1 - i;
    options.prev_output_channel = channels[i == 0 ? level : level + 1];
    options.out_channels = channels[level];
    options.in_channels = channels[level == 0 ? 0 : level - 1];
    options.add_resample = i + 1 < count;
    options.attention_head_dim = c.attention_head_dim.value_or(options.out_channels);
    const auto& type = c.up_block_types[i];
    up_blocks_->push_back(build_block(kClassName, fmt::format("up_block_types[{}] = \"{}\"", i, type), c,
                                      [&] { return get_up_block(type, options); }));
  }
}

void UNet2DModelImpl::set_gradient_checkpointing(bool enabled) {
  gradient_checkpointing_ = enabled;
  for (const auto& block : *down_blocks_) block->set_gradient_checkpointing(enabled);
  if (mid_block_) mid_block_->set_gradient_checkpointing(enabled);
  for (const auto& block : *up_blocks_) block->set_gradient_checkpointing(enabled);
}

Tensor UNet2DModelImpl::broadcast_timesteps(const Tensor& timesteps, const Tensor& sample) const {
  auto times = broadcast_unet_timesteps(timesteps, sample);
  if (time_proj_learned_) {
    require<TensorError>(!timesteps.is_floating_point(),
                         "timesteps: a learned time embedding needs integers, got {}", describe(timesteps));
    check_index_range(times, *config().num_train_timesteps, "timesteps", "num_train_timesteps");
  }
  return times;
}

Tensor UNet2DModelImpl::project_time(const Tensor& timesteps) const {
  Tensor features;
  if (time_proj_fourier_) {
    features = time_proj_fourier_->forward(timesteps);
  } else if (time_proj_learned_) {
    features = time_proj_learned_->forward(timesteps.to(torch::kLong));
  } else {
    features = get_timestep_embedding(timesteps, config().block_out_channels[0], config().flip_sin_to_cos,
                                      static_cast<double>(config().freq_shift));
  }
  return features.to(conv_in_->weight.scalar_type());
}

Tensor UNet2DModelImpl::embed_class(const Tensor& class_labels, const Tensor& sample) const {
  const auto batch = sample.size(0);
  const bool identity = config().class_embed_type == ClassEmbedType::kIdentity;
  if (!class_table_ && !class_timestep_ && !identity) {
    require<TensorError>(!class_labels.defined(),
                         "class_labels: expected none, since the model has neither num_class_embeds nor "
                         "class_embed_type, got {}",
                         describe(class_labels));
    return {};
  }
  require<TensorError>(
      class_labels.defined(), "class_labels: expected {}, since the model is conditional on classes",
      identity ? fmt::format("[{}, {}]", batch, time_embed_dim_) : fmt::format("[{}]", batch));
  require<TensorError>(class_labels.device() == sample.device(), "class_labels are on {}, the sample on {}",
                       class_labels.device().str(), sample.device().str());
  const auto fits = [&](int64_t count) { return count == batch || count == 1; };
  if (identity) {
    require<TensorError>(class_labels.dim() == 2 && fits(class_labels.size(0)) &&
                             class_labels.size(1) == time_embed_dim_ && class_labels.is_floating_point(),
                         "class_labels: expected floating [{}, {}], got {}", batch, time_embed_dim_,
                         describe(class_labels));
    return class_labels.to(conv_in_->weight.scalar_type());
  }

  auto labels = one_label_for_each(class_labels, batch);
  if (class_table_) {
    labels = class_indices(labels, *config().num_class_embeds, "num_class_embeds");
  } else if (time_proj_learned_) {
    labels = class_indices(labels, *config().num_train_timesteps, "num_train_timesteps");
  }
  return class_table_ ? class_table_->forward(labels) : class_timestep_->forward(project_time(labels));
}

UNet2DOutput UNet2DModelImpl::forward(const Tensor& sample, const at::Scalar& timestep,
                                      const UNet2DModelForwardOptions& options) const {
  check_unet_timestep(timestep);
  const int64_t whole =
      timestep.isFloatingPoint() ? static_cast<int64_t>(timestep.toDouble()) : timestep.toLong();
  return forward(sample, torch::full({}, whole, torch::kLong), options);
}

UNet2DOutput UNet2DModelImpl::forward(const Tensor& sample, const Tensor& timesteps,
                                      const UNet2DModelForwardOptions& options) const {
  const ForwardMemoryScope memory(sample);
  require_image("sample", sample, config().in_channels, conv_in_->weight);
  const auto times = broadcast_timesteps(timesteps, sample);
  const auto input = config().center_input_sample ? 2 * sample - 1.0 : sample;

  auto temb = time_embedding_->forward(project_time(times));
  if (const auto class_embedding = embed_class(options.class_labels, sample); class_embedding.defined())
    temb = temb + class_embedding;

  UNetState state{
      .hidden_states = conv_in_->forward(input), .temb = temb, .residuals = {}, .skip_sample = input};
  state.residuals.push_back(state.hidden_states);
  for (const auto& block : *down_blocks_) block->run(state);
  if (mid_block_) mid_block_->run(state);
  state.skip_sample = Tensor();
  for (const auto& block : *up_blocks_) block->run(state);

  auto output = conv_out_->forward(conv_norm_out_->forward_silu(state.hidden_states));
  if (state.skip_sample.defined()) {
    require<TensorError>(
        state.skip_sample.sizes() == output.sizes(),
        "the Skip blocks of up_block_types end with {}, the model with {}: all blocks after a Skip "
        "block must be Skip blocks",
        shape_string(state.skip_sample.sizes()), shape_string(output.sizes()));
    output = output + state.skip_sample;
  }
  if (time_proj_fourier_) output = output / times.view({-1, 1, 1, 1});
  return {output};
}

}  // namespace diffusers
