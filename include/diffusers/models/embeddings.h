#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

namespace diffusers {

/// Sinusoidal embedding of timesteps (Ho et al. 2020; diffusers `get_timestep_embedding`), float32 whatever
/// the dtype of the timesteps: sin(t f_i), cos(t f_i) with f_i = max_period^(-i / (half -
/// downscale_freq_shift)), i < half.
/// @param timesteps `[N]`, integral or floating
/// @param embedding_dim width of the result; an odd one gets a zero column at the end
/// @param flip_sin_to_cos cosines first
/// @return `[N, embedding_dim]`
/// @throws TensorError unless timesteps is 1-D, ConfigError if the frequencies would divide by zero
Tensor get_timestep_embedding(const Tensor& timesteps, int64_t embedding_dim, bool flip_sin_to_cos = false,
                              double downscale_freq_shift = 1, double scale = 1, double max_period = 10000);

struct GaussianFourierProjectionOptions {
  int64_t embedding_size = 256;
  double scale = 1.0;
  /// As Python's layer keeps the second of two draws; false: draws once.
  bool set_W_to_weight = true;
  bool log = true;
  bool flip_sin_to_cos = false;
};

/// Random Fourier features of (the logarithm of) noise levels (Song et al. 2021). The frequencies are drawn
/// once and never trained.
class GaussianFourierProjectionImpl : public torch::nn::Module {
 public:
  explicit GaussianFourierProjectionImpl(const GaussianFourierProjectionOptions& options = {});
  /// @param x `[N]`; positive unless `log` is off
  /// @return `[N, 2 * embedding_size]`
  Tensor forward(const Tensor& x) const;
  Tensor weight;  ///< `[embedding_size]`, without gradient

 private:
  GaussianFourierProjectionOptions options_;
};
TORCH_MODULE(GaussianFourierProjection);

struct TimestepEmbeddingOptions {
  layers::Activation act_fn = layers::Activation::kSilu;
  std::optional<int64_t> out_dim = std::nullopt;
  std::optional<layers::Activation> post_act_fn = std::nullopt;
  std::optional<int64_t> cond_proj_dim = std::nullopt;
  bool sample_proj_bias = true;
};

/// The two linear layers that turn a timestep's features into the embedding that residual blocks take.
class TimestepEmbeddingImpl : public torch::nn::Module {
 public:
  TimestepEmbeddingImpl(int64_t in_channels, int64_t time_embed_dim,
                        const TimestepEmbeddingOptions& options = {});
  /// @param sample `[N, in_channels]`
  /// @param condition `[N, cond_proj_dim]` where the layer was made with one
  /// @return `[N, time_embed_dim]`, or `[N, out_dim]`
  Tensor forward(const Tensor& sample, const Tensor& condition = {}) const;

 private:
  TimestepEmbeddingOptions options_;
  layers::Linear linear_1_{nullptr};
  layers::Linear cond_proj_{nullptr};
  layers::Linear linear_2_{nullptr};
};
TORCH_MODULE(TimestepEmbedding);

}  // namespace diffusers
