#pragma once

#include <diffusers/models/resnet.h>

#include <torch/types.h>

namespace diffusers {
inline namespace internal {

/// Converts an image after attention to channels-last if residual blocks apply dropout.
///
/// Python's attention returns channels-last images, and the operations after it keep that layout. Dropout
/// draws its mask in the order of the memory, so the masks are Python's only in the same layout. Without
/// dropout the image stays contiguous, which is faster.
/// @param attended `[B, C, H, W]`
/// @param resnet a residual block of the same model
/// @return the image in one of the two layouts
inline Tensor order_for_dropout(const Tensor& attended, const ResnetBase& resnet) {
  return resnet.is_training() && resnet.dropout() > 0 ? attended.contiguous(at::MemoryFormat::ChannelsLast)
                                                      : attended;
}

}  // namespace internal
}  // namespace diffusers
