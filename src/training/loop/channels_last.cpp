#include "training/loop/channels_last.h"

#include <diffusers/core/tensor.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/nn/module.h>

namespace diffusers {
inline namespace internal {

void to_channels_last(torch::nn::Module& module) {
  const at::NoGradGuard no_grad;
  for (Tensor& parameter : module.parameters())
    if (parameter.dim() == 4 && parameter.is_floating_point())
      parameter.set_data(parameter.detach().contiguous(at::MemoryFormat::ChannelsLast));
}

}  // namespace internal
}  // namespace diffusers
