#pragma once

// The layers of EncoderTiny and DecoderTiny.

#include <array>
#include <cstdint>
#include <variant>
#include <vector>

#include <diffusers/models/layers.h>
#include <diffusers/models/vae_tiny.h>

namespace diffusers {
inline namespace internal {

/// AutoencoderTinyBlock with as many input as output channels: three convolutions, a shortcut and a ReLU.
class AutoencoderTinyBlockImpl : public torch::nn::Module {
 public:
  AutoencoderTinyBlockImpl(int64_t channels, layers::Activation act_fn);
  /// @return relu(conv(act(conv(act(conv(x))))) + x)
  Tensor forward(const Tensor& x) const;

 private:
  std::array<layers::Conv2d, 3> convs_{nullptr, nullptr, nullptr};
  layers::Activation act_fn_;
};
TORCH_MODULE(AutoencoderTinyBlock);

/// Interpolation by an integral factor (torch.nn `Upsample`).
struct TinyUpsample {
  int64_t factor;
  UpsampleMode mode;
  Tensor forward(const Tensor& x) const;
};

/// Layers one after the other. Parameters have the names of a torch.nn `Sequential`, in which activation
/// functions and interpolations are counted, too.
class TinyLayers : public torch::nn::Module {
 public:
  using Layer = std::variant<layers::Conv2d, AutoencoderTinyBlock, layers::Activation, TinyUpsample>;

  void push_back(Layer layer);
  /// @param checkpointing recompute each block in the backward pass
  Tensor forward(const Tensor& x, bool checkpointing) const;

 private:
  std::vector<Layer> layers_;
};

}  // namespace internal
}  // namespace diffusers
