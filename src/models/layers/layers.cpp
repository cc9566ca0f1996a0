#include <algorithm>
#include <cmath>

#include <diffusers/models/layers.h>
#include <diffusers/ops/conv2d.h>
#include <diffusers/ops/group_norm.h>

#include <ATen/ops/dropout.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/mish.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/silu.h>
#include <torch/nn/init.h>
#include <torch/types.h>

#include "core/require.h"
#include "models/layers/lora_layer.h"
#include "ops/linear.h"

namespace diffusers::layers {
namespace {

thread_local bool skip_init = false;

/// Initialises as torch.nn does for linear layers and convolutions: kaiming_uniform(a = sqrt 5), then the
/// bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
void init_weight_and_bias(const Tensor& weight, const Tensor& bias) {
  if (skip_init) return;
  torch::nn::init::kaiming_uniform_(weight, std::sqrt(5.0));
  if (!bias.defined()) return;
  const int64_t fan_in = weight.numel() / weight.size(0);
  const double bound = 1 / std::sqrt(static_cast<double>(fan_in));
  torch::nn::init::uniform_(bias, -bound, bound);
}

}  // namespace

SkipInitGuard::SkipInitGuard() : previous_(skip_init) { skip_init = true; }
SkipInitGuard::~SkipInitGuard() { skip_init = previous_; }
bool SkipInitGuard::active() { return skip_init; }

LinearImpl::LinearImpl(int64_t in_features, int64_t out_features, bool with_bias) {
  require<ConfigError>(in_features > 0 && out_features > 0,
                       "a linear layer from {} to {} features: both must be positive", in_features,
                       out_features);
  weight = register_parameter("weight", torch::empty({out_features, in_features}));
  if (with_bias) bias = register_parameter("bias", torch::empty({out_features}));
  init_weight_and_bias(weight, bias);
}

Tensor LinearImpl::forward(const Tensor& input) const {
  auto result = fast_linear(input, weight, bias);
  const auto adapters = LoraLayer::of(*this);
  return adapters == nullptr ? result : adapters->apply(input, result, weight, bias, nullptr);
}

Conv2dImpl::Conv2dImpl(int64_t in_channels, int64_t out_channels, const Conv2dOptions& options)
    : options_(options) {
  require<ConfigError>(in_channels > 0 && out_channels > 0,
                       "a convolution from {} to {} channels: both must be positive", in_channels,
                       out_channels);
  require<ConfigError>(options.kernel_size > 0 && options.stride > 0 && options.padding >= 0,
                       "a convolution with kernel size {}, stride {}, padding {}", options.kernel_size,
                       options.stride, options.padding);
  weight = register_parameter(
      "weight", torch::empty({out_channels, in_channels, options.kernel_size, options.kernel_size}));
  if (options.bias) bias = register_parameter("bias", torch::empty({out_channels}));
  init_weight_and_bias(weight, bias);
}

Tensor Conv2dImpl::forward(const Tensor& input) const {
  auto result = fast_conv2d(input, weight, bias, options_.stride, options_.padding);
  const auto adapters = LoraLayer::of(*this);
  return adapters == nullptr ? result : adapters->apply(input, result, weight, bias, &options_);
}

GroupNormImpl::GroupNormImpl(int64_t num_groups, int64_t num_channels, double eps)
    : num_groups_(num_groups), eps_(eps) {
  require<ConfigError>(num_channels > 0, "a group norm over {} channels: must be positive", num_channels);
  require<ConfigError>(num_groups > 0 && num_channels % num_groups == 0,
                       "{} channels cannot be split into {} groups for a group norm", num_channels,
                       num_groups);
  require<ConfigError>(std::isfinite(eps) && eps >= 0,
                       "norm_eps is {}, expected a finite number that is not negative", eps);
  weight = register_parameter("weight", torch::ones({num_channels}));
  bias = register_parameter("bias", torch::zeros({num_channels}));
}

Tensor GroupNormImpl::forward(const Tensor& input) const {
  return group_norm(input, num_groups_, weight, bias, {.eps = eps_});
}

Tensor GroupNormImpl::forward_silu(const Tensor& input) const {
  return group_norm(input, num_groups_, weight, bias, {.eps = eps_, .silu = true});
}

LayerNormImpl::LayerNormImpl(int64_t size, double eps) : eps_(eps) {
  require<ConfigError>(size > 0, "a layer norm over {} features: must be positive", size);
  weight = register_parameter("weight", torch::ones({size}));
  bias = register_parameter("bias", torch::zeros({size}));
}

Tensor LayerNormImpl::forward(const Tensor& input) const {
  return at::layer_norm(input, weight.sizes(), weight, bias, eps_);
}

EmbeddingImpl::EmbeddingImpl(int64_t num_embeddings, int64_t embedding_dim) {
  require<ConfigError>(num_embeddings > 0 && embedding_dim > 0,
                       "an embedding of {} vectors of {} numbers: both must be positive", num_embeddings,
                       embedding_dim);
  weight = register_parameter("weight", torch::empty({num_embeddings, embedding_dim}));
  if (!skip_init) torch::nn::init::normal_(weight);
}

Tensor EmbeddingImpl::forward(const Tensor& indices) const { return at::embedding(weight, indices); }

Activation activation_from_name(std::string_view name, std::string_view key) {
  std::string lower(name);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (lower == "silu" || lower == "swish") return Activation::kSilu;
  if (lower == "mish") return Activation::kMish;
  if (lower == "gelu") return Activation::kGelu;
  if (lower == "relu") return Activation::kRelu;
  fail<ConfigError>("{} is \"{}\", expected one of: \"swish\" \"silu\" \"mish\" \"gelu\" \"relu\"", key,
                    name);
}

Tensor activate(Activation activation, const Tensor& input) {
  switch (activation) {
    case Activation::kSilu:
      return at::silu(input);
    case Activation::kMish:
      return at::mish(input);
    case Activation::kGelu:
      return at::gelu(input);
    case Activation::kRelu:
      break;
  }
  return at::relu(input);
}

Tensor norm_activate(const GroupNorm& norm, Activation activation, const Tensor& input) {
  return activation == Activation::kSilu ? norm->forward_silu(input)
                                         : activate(activation, norm->forward(input));
}

Tensor dropout(const Tensor& input, double p, bool training) {
  return training && p > 0 ? at::dropout(input, p, true) : input;
}

}  // namespace diffusers::layers
