#include "models/layers/norm_conv.h"

#include <utility>

#include "models/layers/lora_layer.h"
#include "ops/norm_conv2d.h"

namespace diffusers {
inline namespace internal {

Tensor norm_silu_conv(const layers::GroupNorm& norm, int64_t groups, GroupNormOptions options,
                      const layers::Conv2d& conv, Tensor input) {
  options.silu = true;
  if (LoraLayer::of(*conv) != nullptr) {
    const Tensor normed = group_norm(input, groups, norm->weight, norm->bias, options);
    input.reset();
    return conv->forward(normed);
  }
  return group_norm_conv2d(std::move(input), groups, norm->weight, norm->bias, options,
                           {conv->weight, conv->bias});
}

}  // namespace internal
}  // namespace diffusers
