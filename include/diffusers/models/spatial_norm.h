#pragma once

#include <cstdint>

#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

namespace diffusers {

/// A group norm, of 32 groups, whose scale and shift at each place come from the latents there (Zheng et al.
/// 2022, "MoVQ"; diffusers `SpatialNorm`).
class SpatialNormImpl : public torch::nn::Module {
 public:
  /// @throws ConfigError unless 32 divides f_channels
  SpatialNormImpl(int64_t f_channels, int64_t zq_channels);
  /// @param f `[B, f_channels, H, W]`
  /// @param zq `[B, zq_channels, h, w]`, stretched to H x W by repeating
  /// @return shape of f
  Tensor forward(const Tensor& f, const Tensor& zq) const;

 private:
  layers::GroupNorm norm_layer_{nullptr};
  layers::Conv2d conv_y_{nullptr};
  layers::Conv2d conv_b_{nullptr};
};
TORCH_MODULE(SpatialNorm);

}  // namespace diffusers
