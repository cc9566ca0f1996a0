#pragma once

#include <cstdint>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

namespace diffusers {

/// A group norm of 32 groups. Two 1x1 convolutions compute scale and shift of each position from latents
/// (Zheng et al. 2022, "MoVQ"; diffusers `SpatialNorm`).
class SpatialNormImpl : public torch::nn::Module {
 public:
  /// Makes the layer.
  /// @param f_channels channels of the input, a multiple of 32
  /// @param zq_channels channels of the latents
  /// @throws ConfigError unless 32 divides f_channels
  SpatialNormImpl(int64_t f_channels, int64_t zq_channels);
  /// Applies the layer.
  /// @param f `[B, f_channels, H, W]`
  /// @param zq `[B, zq_channels, h, w]`, resized to H x W by nearest-neighbour interpolation
  /// @return shape of f
  Tensor forward(const Tensor& f, const Tensor& zq) const;

 private:
  layers::GroupNorm norm_layer_{nullptr};
  layers::Conv2d conv_y_{nullptr};
  layers::Conv2d conv_b_{nullptr};
};
/// A handle of a `SpatialNormImpl`.
TORCH_MODULE(SpatialNorm);

}  // namespace diffusers
