#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include <diffusers/core/config_visitor.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>
#include <diffusers/models/model.h>
#include <diffusers/models/sync_batch_norm.h>

namespace diffusers {

/// The arguments of taming-transformers' `NLayerDiscriminator(...)`, with its defaults.
struct NLayerDiscriminatorConfig {
  int64_t input_nc = 3;      ///< channels of the images
  int64_t ndf = 64;          ///< channels of the first convolution; later ones have up to 8 times as many
  int64_t n_layers = 3;      ///< convolutions with a norm; all but the last of them halve the image
  bool use_actnorm = false;  ///< ActNorm in place of batch norm
};

/// Lists the fields, for config files.
/// @param config the fields
/// @param visit called once for each field
void visit_fields(NLayerDiscriminatorConfig& config, ConfigVisitor& visit);

/// A shift and a scale for each channel (Kingma and Dhariwal 2018; taming-transformers `ActNorm`). The first
/// batch in train mode sets them so that each channel has mean 0 and standard deviation 1. With several
/// processes it is the batch of all of them.
class ActNormImpl : public torch::nn::Module {
 public:
  /// Makes a norm without effect.
  /// @param num_features channels of the input
  explicit ActNormImpl(int64_t num_features);
  /// Computes scale (input + loc).
  /// @param input `[B, num_features, H, W]`
  /// @return shape of input
  /// @throws TensorError if the shape does not fit
  Tensor forward(const Tensor& input);

  Tensor loc;          ///< `[1, num_features, 1, 1]`, minus the mean
  Tensor scale;        ///< `[1, num_features, 1, 1]`, 1 / (standard deviation + 1e-6)
  Tensor initialized;  ///< uint8 0-dim: 1 after the first batch

 private:
  bool is_initialized();

  // Value of `initialized` when the host read it last. It saves a read from the device in each step.
  bool known_ = false;
  int64_t known_version_ = -1;
};
/// A handle of an `ActNormImpl`.
TORCH_MODULE(ActNorm);

/// The PatchGAN discriminator (Isola et al. 2017; taming-transformers `NLayerDiscriminator` after
/// `weights_init`). Parameters have the Python names. Convolution weights are drawn from N(0, 0.02^2) and
/// batch norm weights from N(1, 0.02^2), in Python's order: a seed gives Python's weights.
class NLayerDiscriminatorImpl : public ModelImpl<NLayerDiscriminatorImpl, NLayerDiscriminatorConfig> {
 public:
  static constexpr std::string_view kClassName = "NLayerDiscriminator";  ///< class name in config.json

  /// Makes a discriminator with new weights.
  /// @param config the arguments of the model
  /// @throws ConfigError naming the key and the value that is not supported
  explicit NLayerDiscriminatorImpl(NLayerDiscriminatorConfig config = {});
  /// Makes the layers anew, with new weights.
  void reset() override;

  /// Judges each patch of the images. In train mode the statistics of batch norms are updated.
  /// @param input `[B, input_nc, H, W]`, dtype and device of the model
  /// @return logits `[B, 1, h, w]`, large for patches of real images
  /// @throws TensorError naming both sides if a shape, dtype or device does not fit, and if the image is too
  ///   small for a patch
  Tensor forward(const Tensor& input);

  /// Computes the shortest side of an image that gives a patch.
  /// @return side in pixels
  int64_t min_image_size() const;

 private:
  struct Layer {
    layers::Conv2d convolution{nullptr};
    SyncBatchNorm2d batch_norm{nullptr};  // empty in the first and last layer and with ActNorm
    ActNorm act_norm{nullptr};            // empty in the first and last layer and with batch norm
  };
  void add_layer(torch::nn::Module& main, int64_t in_channels, int64_t out_channels, int64_t stride,
                 bool has_norm, bool has_activation);
  void draw_weights();

  std::vector<Layer> layers_;
  int64_t num_children_ = 0;
};

/// A handle of an `NLayerDiscriminatorImpl`: `NLayerDiscriminator disc({.input_nc = 3, .ndf = 64});`
using NLayerDiscriminator = ModelHolder<NLayerDiscriminatorImpl, NLayerDiscriminatorConfig>;

}  // namespace diffusers
