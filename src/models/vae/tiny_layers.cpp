#include "models/vae/tiny_layers.h"

#include <memory>
#include <string>
#include <utility>

#include <diffusers/models/gradient_checkpointing.h>

#include <torch/types.h>

namespace diffusers {
inline namespace internal {

AutoencoderTinyBlockImpl::AutoencoderTinyBlockImpl(int64_t channels, layers::Activation act_fn)
    : act_fn_(act_fn) {
  const auto sequence = register_module("conv", std::make_shared<torch::nn::Module>("Sequential"));
  for (std::size_t i = 0; i < convs_.size(); ++i) {
    // An activation function follows each convolution except the last.
    convs_[i] = sequence->register_module(
        std::to_string(2 * i),
        layers::Conv2d(channels, channels, layers::Conv2dOptions{.kernel_size = 3, .padding = 1}));
  }
}

Tensor AutoencoderTinyBlockImpl::forward(const Tensor& x) const {
  auto hidden = convs_[0]->forward(x);
  for (std::size_t i = 1; i < convs_.size(); ++i)
    hidden = convs_[i]->forward(layers::activate(act_fn_, hidden));
  return torch::relu(hidden + x);
}

Tensor TinyUpsample::forward(const Tensor& x) const {
  const std::array<int64_t, 2> size{factor * x.size(2), factor * x.size(3)};
  const auto scale = static_cast<double>(factor);
  switch (mode) {
    case UpsampleMode::kNearest:
      return torch::upsample_nearest2d(x, size, scale, scale);
    case UpsampleMode::kNearestExact:
      return torch::_upsample_nearest_exact2d(x, size, scale, scale);
    case UpsampleMode::kBilinear:
      return torch::upsample_bilinear2d(x, size, /*align_corners=*/false, scale, scale);
    case UpsampleMode::kBicubic:
      return torch::upsample_bicubic2d(x, size, /*align_corners=*/false, scale, scale);
    case UpsampleMode::kArea:
      break;
  }
  return torch::adaptive_avg_pool2d(x, size);
}

void TinyLayers::push_back(Layer layer) {
  const auto name = std::to_string(layers_.size());
  if (const auto* conv = std::get_if<layers::Conv2d>(&layer)) register_module(name, *conv);
  if (const auto* block = std::get_if<AutoencoderTinyBlock>(&layer)) register_module(name, *block);
  layers_.push_back(std::move(layer));
}

Tensor TinyLayers::forward(const Tensor& x, bool checkpointing) const {
  auto hidden = x;
  for (const auto& layer : layers_) {
    if (const auto* conv = std::get_if<layers::Conv2d>(&layer)) {
      hidden = (*conv)->forward(hidden);
    } else if (const auto* activation = std::get_if<layers::Activation>(&layer)) {
      hidden = layers::activate(*activation, hidden);
    } else if (const auto* upsample = std::get_if<TinyUpsample>(&layer)) {
      hidden = upsample->forward(hidden);
    } else {
      const auto& block = std::get<AutoencoderTinyBlock>(layer);
      // The body owns the block, so that the backward pass works after the model is destroyed.
      hidden = checkpointing
                   ? checkpoint([block](const std::vector<Tensor>& in) { return block->forward(in[0]); },
                                {hidden}, *block, /*uses_random=*/false)
                   : block->forward(hidden);
    }
  }
  return hidden;
}

}  // namespace internal
}  // namespace diffusers
