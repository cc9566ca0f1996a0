#include <diffusers/models/gradient_checkpointing.h>
#include <diffusers/models/transformer_2d.h>
#include <diffusers/ops/geglu.h>

#include <torch/types.h>

#include "core/require.h"
#include "models/layers/lora_layer.h"
#include "ops/linear.h"
#include "ops/tokens.h"

namespace diffusers {
namespace {

constexpr double kTransformerNormEps = 1e-6;

/// Tokens to which one of the two transformers of a DualTransformer2DModel attends.
struct DualCondition {
  std::size_t transformer;
  int64_t begin;
  int64_t end;
};
constexpr std::array<DualCondition, 2> kDualConditions{{{1, 0, 77}, {0, 77, 77 + 257}}};
constexpr double kDualMixRatio = 0.5;

bool is_gated(FeedForwardActivation activation) {
  return activation == FeedForwardActivation::kGeglu || activation == FeedForwardActivation::kSwiglu;
}

/// Applies the activation to the inner features. For a gated activation the second half is the gate.
Tensor activate_features(FeedForwardActivation activation, const Tensor& features) {
  switch (activation) {
    case FeedForwardActivation::kGelu:
      return torch::gelu(features);
    case FeedForwardActivation::kGeluApproximate:
      return torch::gelu(features, "tanh");
    case FeedForwardActivation::kGegluApproximate:
      return features * torch::sigmoid(1.702 * features);
    case FeedForwardActivation::kLinearSilu:
      return torch::silu(features);
    case FeedForwardActivation::kGeglu:
      return geglu(features);
    case FeedForwardActivation::kSwiglu:
      break;
  }
  const auto halves = features.chunk(2, -1);
  return halves[0] * torch::silu(halves[1]);
}

/// Applies a 1x1 convolution to the positions `[B, L, C]` of an image.
Tensor project_tokens(const layers::Conv2d& conv, const Tensor& tokens) {
  const Tensor weight = conv->weight.flatten(1);
  const Tensor result = fast_linear(tokens, weight, conv->bias);
  const auto adapters = LoraLayer::of(*conv);
  return adapters == nullptr ? result : adapters->apply(tokens, result, weight, conv->bias, nullptr);
}

/// The input projection, registered under Python's name.
struct NamedProjectionImpl : torch::nn::Module {
  explicit NamedProjectionImpl(layers::Linear linear) { register_module("proj", std::move(linear)); }
};

}  // namespace

FeedForwardImpl::FeedForwardImpl(int64_t dim, const FeedForwardOptions& options) : options_(options) {
  require<ConfigError>(options.dropout >= 0 && options.dropout <= 1,
                       "dropout is {}, expected a probability in [0, 1]", options.dropout);
  const int64_t inner_dim = dim * options.mult;
  proj_in_ = layers::Linear(dim, is_gated(options.activation_fn) ? 2 * inner_dim : inner_dim);
  proj_out_ = layers::Linear(inner_dim, options.dim_out.value_or(dim));
  // Python has projection, dropout and projection in a list.
  auto net = std::make_shared<torch::nn::Module>();
  net->register_module("0", std::make_shared<NamedProjectionImpl>(proj_in_));
  net->register_module("2", proj_out_);
  register_module("net", net);
}

Tensor FeedForwardImpl::forward(const Tensor& hidden_states) const {
  const auto inner = activate_features(options_.activation_fn, proj_in_->forward(hidden_states));
  return proj_out_->forward(layers::dropout(inner, options_.dropout, is_training()));
}

BasicTransformerBlockImpl::BasicTransformerBlockImpl(const BasicTransformerBlockOptions& options)
    : options_(options) {
  AttentionLayerOptions attention{.query_dim = options.dim,
                                  .heads = options.num_attention_heads,
                                  .dim_head = options.attention_head_dim,
                                  .dropout = options.dropout,
                                  .bias = options.attention_bias};
  norm1_ = register_module("norm1", layers::LayerNorm(options.dim, options.norm_eps));
  attention.cross_attention_dim = options.only_cross_attention ? options.cross_attention_dim : std::nullopt;
  attn1_ = register_module("attn1", Attention(attention));
  if (options.cross_attention_dim || options.double_self_attention) {
    norm2_ = register_module("norm2", layers::LayerNorm(options.dim, options.norm_eps));
    attention.cross_attention_dim =
        options.double_self_attention ? std::nullopt : options.cross_attention_dim;
    attn2_ = register_module("attn2", Attention(attention));
  }
  norm3_ = register_module("norm3", layers::LayerNorm(options.dim, options.norm_eps));
  ff_ = register_module("ff",
                        FeedForward(options.dim, FeedForwardOptions{.dropout = options.dropout,
                                                                    .activation_fn = options.activation_fn}));
}

Tensor BasicTransformerBlockImpl::forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states,
                                          const Tensor& attention_mask,
                                          const Tensor& encoder_attention_mask) const {
  const auto context = options_.only_cross_attention ? encoder_hidden_states : Tensor();
  auto hidden = attn1_->forward(norm1_->forward(hidden_states), context, attention_mask) + hidden_states;
  if (attn2_) {
    hidden = attn2_->forward(norm2_->forward(hidden), encoder_hidden_states, encoder_attention_mask) + hidden;
  }
  return ff_->forward(norm3_->forward(hidden)) + hidden;
}

Transformer2DModelImpl::Transformer2DModelImpl(const Transformer2DModelOptions& options)
    : transformer_blocks_(std::make_shared<layers::ModuleVectorImpl<BasicTransformerBlock>>()) {
  require<ConfigError>(options.num_attention_heads > 0 && options.attention_head_dim > 0,
                       "a transformer over {} channels with {} heads of {} channels: both must be positive",
                       options.in_channels, options.num_attention_heads, options.attention_head_dim);
  require<ConfigError>(options.num_layers >= 0, "a transformer with {} layers: must not be negative",
                       options.num_layers);
  const int64_t inner_dim = options.num_attention_heads * options.attention_head_dim;
  const layers::Conv2dOptions pointwise{.kernel_size = 1};

  norm_ = register_module(
      "norm", layers::GroupNorm(options.norm_num_groups, options.in_channels, kTransformerNormEps));
  if (options.use_linear_projection) {
    linear_in_ = register_module("proj_in", layers::Linear(options.in_channels, inner_dim));
  } else {
    conv_in_ = register_module("proj_in", layers::Conv2d(options.in_channels, inner_dim, pointwise));
  }
  for (int64_t i = 0; i < options.num_layers; ++i) {
    transformer_blocks_->push_back(BasicTransformerBlock(
        BasicTransformerBlockOptions{.dim = inner_dim,
                                     .num_attention_heads = options.num_attention_heads,
                                     .attention_head_dim = options.attention_head_dim,
                                     .dropout = options.dropout,
                                     .cross_attention_dim = options.cross_attention_dim,
                                     .activation_fn = options.activation_fn,
                                     .attention_bias = options.attention_bias,
                                     .only_cross_attention = options.only_cross_attention,
                                     .double_self_attention = options.double_self_attention,
                                     .norm_eps = options.norm_eps}));
  }
  register_module("transformer_blocks", transformer_blocks_);
  if (options.use_linear_projection) {
    linear_out_ = register_module("proj_out", layers::Linear(inner_dim, options.in_channels));
  } else {
    conv_out_ = register_module("proj_out", layers::Conv2d(inner_dim, options.in_channels, pointwise));
  }
}

Tensor Transformer2DModelImpl::run_block(const BasicTransformerBlock& block, const Tensor& hidden_states,
                                         const Tensor& encoder_hidden_states, const Tensor& attention_mask,
                                         const Tensor& encoder_attention_mask) const {
  if (!gradient_checkpointing_)
    return block->forward(hidden_states, encoder_hidden_states, attention_mask, encoder_attention_mask);
  // Only defined tensors can be inputs of a checkpoint. The body restores each argument to its position.
  std::array<Tensor, 4> arguments{hidden_states, encoder_hidden_states, attention_mask,
                                  encoder_attention_mask};
  std::vector<Tensor> inputs;
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (!arguments[i].defined()) continue;
    inputs.push_back(arguments[i]);
    places.push_back(i);
  }
  auto body = [module = block.ptr(), places](const std::vector<Tensor>& given) {
    std::array<Tensor, 4> all;
    for (std::size_t i = 0; i < places.size(); ++i) all[places[i]] = given[i];
    return module->forward(all[0], all[1], all[2], all[3]);
  };
  return checkpoint(std::move(body), inputs, *block, block->is_training() && block->dropout() > 0);
}

Tensor Transformer2DModelImpl::forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states,
                                       const Tensor& attention_mask,
                                       const Tensor& encoder_attention_mask) const {
  auto hidden = image_to_tokens(norm_->forward(hidden_states));
  hidden = conv_in_ ? project_tokens(conv_in_, hidden) : linear_in_->forward(hidden);

  for (const auto& block : *transformer_blocks_)
    hidden = run_block(block, hidden, encoder_hidden_states, attention_mask, encoder_attention_mask);

  hidden = conv_out_ ? project_tokens(conv_out_, hidden) : linear_out_->forward(hidden);
  return add_tokens(hidden_states, hidden);
}

DualTransformer2DModelImpl::DualTransformer2DModelImpl(const Transformer2DModelOptions& options)
    : transformers_(std::make_shared<layers::ModuleVectorImpl<Transformer2DModel>>()) {
  for (std::size_t i = 0; i < kDualConditions.size(); ++i)
    transformers_->push_back(Transformer2DModel(options));
  register_module("transformers", transformers_);
}

Tensor DualTransformer2DModelImpl::forward(const Tensor& hidden_states, const Tensor& encoder_hidden_states,
                                           const Tensor& attention_mask,
                                           const Tensor& encoder_attention_mask) const {
  constexpr int64_t kFirst = kDualConditions[0].end;
  require<TensorError>(
      encoder_hidden_states.defined() && encoder_hidden_states.dim() == 3 &&
          encoder_hidden_states.size(1) > kFirst,
      "dual_cross_attention: expected encoder_hidden_states [B, S, D] of two conditions, the "
      "first of {} tokens, got {}",
      kFirst, describe(encoder_hidden_states));
  require<TensorError>(!attention_mask.defined() && !encoder_attention_mask.defined(),
                       "dual_cross_attention takes no attention_mask and no encoder_attention_mask");
  Tensor change;
  for (const auto& condition : kDualConditions) {
    const double ratio = change.defined() ? 1 - kDualMixRatio : kDualMixRatio;
    const auto encoded = (*transformers_)[condition.transformer]->forward(
        hidden_states, encoder_hidden_states.slice(1, condition.begin, condition.end), {}, {});
    const auto part = (encoded - hidden_states) * ratio;
    change = change.defined() ? change + part : part;
  }
  return change + hidden_states;
}

void DualTransformer2DModelImpl::set_gradient_checkpointing(bool enabled) {
  for (Transformer2DModel transformer : *transformers_) transformer->set_gradient_checkpointing(enabled);
}

}  // namespace diffusers
