#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

namespace diffusers {

/// Computes the sinusoidal embedding of timesteps: sin(t f_i), cos(t f_i) with f_i = max_period^(-i / (half -
/// downscale_freq_shift)) for i < half (Ho et al. 2020; diffusers `get_timestep_embedding`).
/// @param timesteps `[N]`, integral or floating
/// @param embedding_dim width of the result; an odd one gets a zero column at the end
/// @param flip_sin_to_cos true: cosines precede sines
/// @param downscale_freq_shift shift in the exponent of f_i
/// @param scale factor of the arguments t f_i
/// @param max_period base of f_i, the largest period
/// @return `[N, embedding_dim]`, float32 for every dtype of the timesteps
/// @throws TensorError unless timesteps is 1-D
/// @throws ConfigError if the frequencies would divide by zero
Tensor get_timestep_embedding(const Tensor& timesteps, int64_t embedding_dim, bool flip_sin_to_cos = false,
                              double downscale_freq_shift = 1, double scale = 1, double max_period = 10000);

/// The arguments of Python's `GaussianFourierProjection(...)`.
struct GaussianFourierProjectionOptions {
  int64_t embedding_size = 256;  ///< number of frequencies
  double scale = 1.0;            ///< standard deviation of the frequencies
  bool set_W_to_weight = true;   ///< draws twice and keeps the second draw, as Python; false: draws once
  bool log = true;               ///< takes the logarithm of the input
  bool flip_sin_to_cos = false;  ///< cosines precede sines
};

/// Random Fourier features of noise levels or of their logarithms (Song et al. 2021; diffusers
/// `GaussianFourierProjection`). The frequencies are drawn once and never trained.
class GaussianFourierProjectionImpl : public torch::nn::Module {
 public:
  /// Draws the frequencies.
  /// @param options the arguments of the layer
  explicit GaussianFourierProjectionImpl(const GaussianFourierProjectionOptions& options = {});
  /// Computes the features.
  /// @param x `[N]`; positive unless `log` is off
  /// @return `[N, 2 * embedding_size]`
  Tensor forward(const Tensor& x) const;
  Tensor weight;  ///< `[embedding_size]`, without gradient

 private:
  GaussianFourierProjectionOptions options_;
};
/// A handle of a `GaussianFourierProjectionImpl`.
TORCH_MODULE(GaussianFourierProjection);

/// The optional arguments of Python's `TimestepEmbedding(...)`.
struct TimestepEmbeddingOptions {
  layers::Activation act_fn = layers::Activation::kSilu;  ///< activation between the linear layers
  std::optional<int64_t> out_dim = std::nullopt;          ///< width of the result; default: time_embed_dim
  /// Activation after the second linear layer; nullopt: none.
  std::optional<layers::Activation> post_act_fn = std::nullopt;
  std::optional<int64_t> cond_proj_dim = std::nullopt;  ///< width of the condition; nullopt: none
  bool sample_proj_bias = true;                         ///< bias of the linear layers
};

/// Two linear layers that compute the time embedding of residual blocks from the features of a timestep
/// (diffusers `TimestepEmbedding`).
class TimestepEmbeddingImpl : public torch::nn::Module {
 public:
  /// Makes the linear layers.
  /// @param in_channels width of the features
  /// @param time_embed_dim width between the layers
  /// @param options the other arguments
  TimestepEmbeddingImpl(int64_t in_channels, int64_t time_embed_dim,
                        const TimestepEmbeddingOptions& options = {});
  /// Embeds features.
  /// @param sample `[N, in_channels]`
  /// @param condition `[N, cond_proj_dim]` for a layer with cond_proj_dim, else undefined
  /// @return `[N, time_embed_dim]`, or `[N, out_dim]`
  Tensor forward(const Tensor& sample, const Tensor& condition = {}) const;

 private:
  TimestepEmbeddingOptions options_;
  layers::Linear linear_1_{nullptr};
  layers::Linear cond_proj_{nullptr};
  layers::Linear linear_2_{nullptr};
};
/// A handle of a `TimestepEmbeddingImpl`.
TORCH_MODULE(TimestepEmbedding);

}  // namespace diffusers
