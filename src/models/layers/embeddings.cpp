#include <cmath>
#include <numbers>

#include <diffusers/models/embeddings.h>
#include <diffusers/ops/fused.h>

#include <torch/types.h>

#include "core/require.h"
#include "ops/cuda/pointwise_tensors.h"

namespace diffusers {

Tensor get_timestep_embedding(const Tensor& timesteps, int64_t embedding_dim, bool flip_sin_to_cos,
                              double downscale_freq_shift, double scale, double max_period) {
  require<TensorError>(timesteps.defined() && timesteps.dim() == 1, "timesteps: expected [N], got {}",
                       describe(timesteps));
  require<ConfigError>(embedding_dim > 0, "embedding_dim is {}, must be positive", embedding_dim);
  const int64_t half = embedding_dim / 2;
  require<ConfigError>(half == 0 || static_cast<double>(half) != downscale_freq_shift,
                       "freq_shift is {}, which with {} channels of time embedding divides by zero",
                       downscale_freq_shift, embedding_dim);
#if defined(DIFFUSERS_WITH_CUDA)
  if (timesteps.is_cuda() && fused_cuda() && half > 0 && timesteps.size(0) > 0 && !timesteps.requires_grad())
    return cuda::run_timestep_embedding(
        timesteps, {.count = timesteps.size(0),
                    .dim = embedding_dim,
                    .flip_sin_to_cos = flip_sin_to_cos,
                    .log_period = static_cast<float>(-std::log(max_period)),
                    .frequencies = static_cast<float>(static_cast<double>(half) - downscale_freq_shift),
                    .scale = static_cast<float>(scale)});
#endif
  // The operations have Python's order, so that the float32 rounding is the same.
  auto exponent = -std::log(max_period) * torch::arange(half, timesteps.options().dtype(torch::kFloat32));
  exponent = exponent / (static_cast<double>(half) - downscale_freq_shift);
  auto emb = timesteps.unsqueeze(1).to(torch::kFloat32) * torch::exp(exponent).unsqueeze(0);
  if (scale != 1) emb = scale * emb;
  emb = flip_sin_to_cos ? torch::cat({torch::cos(emb), torch::sin(emb)}, -1)
                        : torch::cat({torch::sin(emb), torch::cos(emb)}, -1);
  if (embedding_dim % 2 == 1) emb = torch::constant_pad_nd(emb, {0, 1});
  return emb;
}

GaussianFourierProjectionImpl::GaussianFourierProjectionImpl(const GaussianFourierProjectionOptions& options)
    : options_(options) {
  require<ConfigError>(options.embedding_size > 0, "a Fourier projection of {} frequencies: must be positive",
                       options.embedding_size);
  Tensor frequencies = torch::empty({options.embedding_size});
  if (!layers::SkipInitGuard::active()) {
    if (options.set_W_to_weight) torch::randn({options.embedding_size});
    frequencies = torch::randn({options.embedding_size}) * options.scale;
  }
  weight = register_parameter("weight", frequencies, /*requires_grad=*/false);
}

Tensor GaussianFourierProjectionImpl::forward(const Tensor& x) const {
  const auto input = options_.log ? torch::log(x) : x;
  const auto angles = input.unsqueeze(1) * weight.unsqueeze(0) * 2 * std::numbers::pi;
  const auto sin = torch::sin(angles);
  const auto cos = torch::cos(angles);
  return options_.flip_sin_to_cos ? torch::cat({cos, sin}, -1) : torch::cat({sin, cos}, -1);
}

TimestepEmbeddingImpl::TimestepEmbeddingImpl(int64_t in_channels, int64_t time_embed_dim,
                                             const TimestepEmbeddingOptions& options)
    : options_(options) {
  linear_1_ =
      register_module("linear_1", layers::Linear(in_channels, time_embed_dim, options.sample_proj_bias));
  if (options.cond_proj_dim)
    cond_proj_ = register_module("cond_proj", layers::Linear(*options.cond_proj_dim, in_channels, false));
  linear_2_ = register_module(
      "linear_2",
      layers::Linear(time_embed_dim, options.out_dim.value_or(time_embed_dim), options.sample_proj_bias));
}

Tensor TimestepEmbeddingImpl::forward(const Tensor& sample, const Tensor& condition) const {
  require<TensorError>(!condition.defined() || cond_proj_,
                       "condition given, but the layer was made without cond_proj_dim");
  auto hidden = condition.defined() ? sample + cond_proj_->forward(condition) : sample;
  hidden = linear_2_->forward(layers::activate(options_.act_fn, linear_1_->forward(hidden)));
  return options_.post_act_fn ? layers::activate(*options_.post_act_fn, hidden) : hidden;
}

}  // namespace diffusers
