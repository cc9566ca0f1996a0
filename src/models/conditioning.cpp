#include <algorithm>
#include <string_view>
#include <vector>

#include <diffusers/models/conditioning.h>
#include <diffusers/models/denoiser.h>

#include <ATen/ATen.h>
#include <torch/nn/modules/dropout.h>

#include "core/require.h"
#include "models/conditioning_fields.h"

namespace diffusers {

Conditioning Conditioning::slice(int64_t begin, int64_t end) const {
  Conditioning rows = *this;
  for_each_conditioning_tensor(rows, [&](const char* name, Tensor& tensor) {
    if (!tensor.defined()) return;
    require<TensorError>(tensor.dim() > 0 && 0 <= begin && begin <= end && end <= tensor.size(0),
                         "Conditioning: rows {} to {} of {} were asked for, which is {}", begin, end, name,
                         describe(tensor));
    tensor = tensor.slice(0, begin, end);
  });
  return rows;
}

Conditioning Conditioning::to(at::Device device) const {
  Conditioning moved = *this;
  for_each_conditioning_tensor(moved, [&](const char*, Tensor& tensor) {
    if (tensor.defined()) tensor = tensor.to(device, /*non_blocking=*/true);
  });
  return moved;
}

namespace detail {

Tensor with_extra_channels(const Tensor& sample, const Conditioning& conditioning) {
  const Tensor& extra = conditioning.extra_channels;
  if (!extra.defined()) return sample;
  bool fits = sample.defined() && extra.dim() == sample.dim() && extra.dim() > 1;
  for (int64_t d = 0; fits && d < extra.dim(); ++d) fits = d == 1 || extra.size(d) == sample.size(d);
  require<TensorError>(fits,
                       "the extra channels are {}, the sample is {}; expected equal sizes but for the "
                       "channels, dimension 1",
                       describe(extra), describe(sample));
  return at::cat({sample, extra.to(sample.scalar_type())}, 1);
}

void refuse_inputs(const Conditioning& conditioning, std::initializer_list<std::string_view> accepted,
                   const torch::nn::Module& model) {
  for_each_conditioning_tensor(conditioning, [&](const char* name, const Tensor& tensor) {
    require<ConfigError>(
        !tensor.defined() || std::find(accepted.begin(), accepted.end(), name) != accepted.end(),
        "the conditioning has {} {}, but the forward of {} does not take it", name, describe(tensor),
        model.name());
  });
}

double largest_dropout(const torch::nn::Module& model) {
  double largest = 0.0;
  for (const auto& module : model.modules())
    if (const auto* layer = module->as<torch::nn::DropoutImpl>())
      largest = std::max(largest, layer->options.p());
  return largest;
}

}  // namespace detail
}  // namespace diffusers
