#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/layers.h>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

namespace diffusers {

/// The networks whose features LPIPS compares.
enum class LPIPSNet {
  kAlex,  ///< "alex": the convolutions of AlexNet
  kVgg,   ///< "vgg": the convolutions of VGG16
};

/// The Python strings of `LPIPSNet`.
template <>
struct EnumNames<LPIPSNet> {
  static constexpr std::string_view kKey = "net";  ///< name of the field
  /// Enumerators and their strings.
  static constexpr std::array<std::pair<LPIPSNet, std::string_view>, 2> kTable{{
      {LPIPSNet::kAlex, "alex"},
      {LPIPSNet::kVgg, "vgg"},
  }};
};

/// The arguments of an `LPIPS` with new weights.
struct LPIPSConfig {
  EnumChoice<LPIPSNet> net = LPIPSNet::kAlex;  ///< network, "alex" or "vgg"
  /// Shorter side, in pixels, below which images are enlarged bilinearly. 0 never enlarges.
  int64_t min_image_size = 64;
};

/// The options of `LPIPS::from_pretrained`.
struct LPIPSLoadOptions {
  at::ScalarType dtype = at::kFloat;  ///< floating dtype that the weights are converted to
  at::Device device = at::kCPU;       ///< device that the weights are loaded to
  int64_t min_image_size = 64;        ///< see `LPIPSConfig`
};

/// A network of your own, whose features LPIPS compares:
/// @code
/// struct Edges : LPIPSFeatures {
///   Edges() : LPIPSFeatures("edges") { conv = register_module("conv", torch::nn::Conv2d(1, 8, 3)); }
///   std::vector<Tensor> features(const Tensor& images) override { return {conv(images).relu()}; }
///   torch::nn::Conv2d conv{nullptr};
/// };
/// LPIPS distance(std::make_shared<Edges>());
/// @endcode
class LPIPSFeatures : public torch::nn::Module {
 public:
  /// @param name name of the network. A training of an AutoencoderTask is resumed only with the same name.
  explicit LPIPSFeatures(const std::string& name) : Module(name) {}

  /// Computes the features that are compared.
  /// @param images `[B, C, H, W]` in [-1, 1], the channels as `LPIPSImpl::forward` got them
  /// @return one tensor `[B, C_i, H_i, W_i]` or more, before they are normalised
  virtual std::vector<Tensor> features(const Tensor& images) = 0;
};

/// The perceptual distance of two images (Zhang et al. 2018, arXiv 1801.03924; `lpips.LPIPS` version 0.1 of
/// the Python package lpips): the weighted squared difference of the normalised features of five layers,
/// averaged over the image. Parameters and buffers have the names of that package. They do not require
/// gradients. Gradients flow to the images.
///
/// With a network of your own there are no learned weights: the squared differences are summed over the
/// channels, averaged over the image and summed over the tensors of features, as `lpips.LPIPS(lpips=False)`
/// does.
class LPIPSImpl : public torch::nn::Module {
 public:
  /// Makes the network with new weights, in eval mode.
  /// @param config network and least size of images
  /// @throws ConfigError if min_image_size is negative
  explicit LPIPSImpl(const LPIPSConfig& config);
  /// Compares the features of a network of your own, which is set to eval mode. Its parameters are frozen.
  /// @param network registered as `net`; shared, not copied
  /// @param min_image_size see `LPIPSConfig`
  /// @throws ConfigError if the network is null or min_image_size is negative
  explicit LPIPSImpl(std::shared_ptr<LPIPSFeatures> network, int64_t min_image_size = 0);

  /// Computes the distance of each pair of images. Images whose shorter side is below
  /// `config().min_image_size` are enlarged to it first, both by the same factor in height and width.
  /// @param x `[B, 3, H, W]` or `[B, 1, H, W]` in [-1, 1], dtype and device of the weights; with a network of
  ///   your own `[B, C, H, W]`
  /// @param y shape of x
  /// @return `[B, 1, 1, 1]`, 0 for equal images
  /// @throws TensorError naming both sides if a shape, dtype or device does not fit, or if the features of
  ///   a network of your own are no tensors `[B, C_i, H_i, W_i]`
  Tensor forward(const Tensor& x, const Tensor& y) const;

  /// Computes the features that are compared, before they are normalised.
  /// @param images as `forward` takes them
  /// @return five tensors `[B, C_i, H_i, W_i]`, or those of the network of your own
  /// @throws TensorError as `forward`
  std::vector<Tensor> features(const Tensor& images) const;

  /// @return the arguments that the network was made with; `net` has no meaning for a network of your own
  const LPIPSConfig& config() const { return config_; }
  /// @return the network of your own; null for AlexNet and VGG16
  const std::shared_ptr<LPIPSFeatures>& network() const { return network_; }

 private:
  struct Stage {
    int64_t pool = 0;  // kernel size of the max pooling with stride 2 before the convolutions; 0: none
    std::vector<layers::Conv2d> convolutions;
  };

  void check(const char* name, const Tensor& images) const;
  Tensor enlarged(const Tensor& images) const;

  LPIPSConfig config_;
  std::shared_ptr<LPIPSFeatures> network_;
  Tensor shift_, scale_;  // `[1, 3, 1, 1]`
  std::vector<Stage> stages_;
  std::vector<layers::Conv2d> heads_;
};

/// A handle of an `LPIPSImpl`. `LPIPS(nullptr)` is empty.
class LPIPS : public torch::nn::ModuleHolder<LPIPSImpl> {
 public:
  /// Makes an empty holder.
  LPIPS(std::nullptr_t) : ModuleHolder(nullptr) {}  // NOLINT(google-explicit-constructor)
  /// Holds a network.
  /// @param network the network; null makes an empty holder
  // NOLINTNEXTLINE(google-explicit-constructor)
  LPIPS(std::shared_ptr<LPIPSImpl> network) : ModuleHolder(std::move(network)) {}
  /// Makes a network with new weights, whose distances mean nothing: `LPIPS lpips({.net = "vgg"})`.
  /// @param config network and least size of images
  /// @throws ConfigError if min_image_size is negative
  explicit LPIPS(const LPIPSConfig& config) : ModuleHolder(std::make_shared<LPIPSImpl>(config)) {}
  /// Compares the features of a network of your own: `LPIPS distance(std::make_shared<Edges>())`.
  /// @param network shared, not copied
  /// @param min_image_size see `LPIPSConfig`
  /// @throws ConfigError if the network is null or min_image_size is negative
  explicit LPIPS(std::shared_ptr<LPIPSFeatures> network, int64_t min_image_size = 0)
      : ModuleHolder(std::make_shared<LPIPSImpl>(std::move(network), min_image_size)) {}

  /// Calls `forward`.
  /// @param x,y images, as `LPIPSImpl::forward` takes them
  /// @return `[B, 1, 1, 1]`
  Tensor operator()(const Tensor& x, const Tensor& y) const { return ptr()->forward(x, y); }

  /// Loads convolutions and heads from a safetensors file with the names of the Python package lpips, such as
  /// `net.slice1.0.weight` and `lin0.model.1.weight`. The shapes tell the network.
  /// `examples/vqgan/convert_lpips.py` makes the file.
  /// @param file the file
  /// @param options dtype, device and least size of images
  /// @return the network, in eval mode
  /// @throws FileError if the file is missing or damaged, or naming the tensors that are missing or have
  ///   another shape
  static LPIPS from_pretrained(const std::filesystem::path& file, const LPIPSLoadOptions& options = {});
};

}  // namespace diffusers
