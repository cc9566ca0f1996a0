#include <diffusers/models/spatial_norm.h>

#include <torch/types.h>

#include "core/require.h"

namespace diffusers {
namespace {

/// Number of groups. As in Python it does not depend on norm_num_groups.
constexpr int64_t kSpatialNormGroups = 32;
constexpr double kSpatialNormEps = 1e-6;

}  // namespace

SpatialNormImpl::SpatialNormImpl(int64_t f_channels, int64_t zq_channels) {
  const layers::Conv2dOptions conv1x1{.kernel_size = 1};
  norm_layer_ =
      register_module("norm_layer", layers::GroupNorm(kSpatialNormGroups, f_channels, kSpatialNormEps));
  conv_y_ = register_module("conv_y", layers::Conv2d(zq_channels, f_channels, conv1x1));
  conv_b_ = register_module("conv_b", layers::Conv2d(zq_channels, f_channels, conv1x1));
}

Tensor SpatialNormImpl::forward(const Tensor& f, const Tensor& zq) const {
  const int64_t zq_channels = conv_y_->weight.size(1);
  require<TensorError>(
      f.defined() && f.dim() == 4 && zq.defined() && zq.dim() == 4 && zq.size(1) == zq_channels,
      "spatial norm: expected [B, C, H, W] and latents [B, {}, h, w], got {} and {}", zq_channels,
      describe(f), describe(zq));
  // Python resizes the latents before the 1x1 convolutions. Resizing their outputs gives the same result with
  // less work.
  const auto stretch = [&](const Tensor& image) {
    return torch::upsample_nearest2d(image, {f.size(2), f.size(3)});
  };
  return norm_layer_->forward(f) * stretch(conv_y_->forward(zq)) + stretch(conv_b_->forward(zq));
}

}  // namespace diffusers
