#include "models/layers/norm_conv.h"

#include "models/layers/lora_layer.h"
#include "ops/norm_conv2d.h"

namespace diffusers {
inline namespace internal {

Tensor norm_silu_conv(const layers::GroupNorm& norm, int64_t groups, GroupNormOptions options,
                      const layers::Conv2d& conv, const Tensor& input) {
  options.silu = true;
  if (LoraLayer::of(*conv) != nullptr)
    return conv->forward(group_norm(input, groups, norm->weight, norm->bias, options));
  return group_norm_conv2d(input, groups, norm->weight, norm->bias, options, {conv->weight, conv->bias});
}

}  // namespace internal
}  // namespace diffusers
