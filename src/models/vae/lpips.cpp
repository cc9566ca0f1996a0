#include <algorithm>
#include <string>

#include <diffusers/core/logging.h>
#include <diffusers/core/tensor_map.h>
#include <diffusers/io/safetensors.h>
#include <diffusers/models/lpips.h>
#include <diffusers/models/state_dict.h>

#include <ATen/ops/conv2d.h>
#include <torch/types.h>

#include "core/freed_memory.h"
#include "core/require.h"
#include "models/checks.h"

namespace diffusers {
namespace {

/// Keeps the quotient finite where all features of a place are 0 (`lpips.normalize_tensor`).
constexpr double kNormEpsilon = 1e-10;
constexpr const char* kFirstWeight = "net.slice1.0.weight";

struct FeatureConv {
  int64_t index;  // in the network's `features`
  int64_t out_channels;
  layers::Conv2dOptions options = {.kernel_size = 3, .padding = 1};
};

struct FeatureStage {
  int64_t pool;
  std::vector<FeatureConv> convolutions;
};

/// The layers of torchvision's `alexnet().features` or `vgg16().features` up to the last that is compared.
std::vector<FeatureStage> feature_stages(LPIPSNet net) {
  if (net == LPIPSNet::kVgg)
    return {{0, {{0, 64}, {2, 64}}},
            {2, {{5, 128}, {7, 128}}},
            {2, {{10, 256}, {12, 256}, {14, 256}}},
            {2, {{17, 512}, {19, 512}, {21, 512}}},
            {2, {{24, 512}, {26, 512}, {28, 512}}}};
  return {{0, {{0, 64, {.kernel_size = 11, .stride = 4, .padding = 2}}}},
          {3, {{3, 192, {.kernel_size = 5, .padding = 2}}}},
          {3, {{6, 384}}},
          {0, {{8, 256}}},
          {0, {{10, 256}}}};
}

Tensor per_channel(std::initializer_list<double> values) {
  return torch::tensor(std::vector<double>(values), torch::kFloat).view({1, 3, 1, 1});
}

/// Convolves without Winograd. Its rounding errors would choose another maximum in some of the pools, and so
/// change the gradient of a pixel by more than rounding. All 3x3 convolutions have stride 1 and padding 1.
Tensor feature_convolution(const layers::Conv2d& convolution, const Tensor& hidden) {
  if (convolution->weight.size(2) != 3) return convolution->forward(hidden);
  return at::conv2d(hidden, convolution->weight, convolution->bias, 1, 1);
}

/// Divides the features of each place by their norm. At a norm of 0 the gradient is 0, where that of the
/// root of a sum of squares is NaN.
Tensor unit_features(const Tensor& features) {
  return features / (at::linalg_vector_norm(features, 2, {1}, /*keepdim=*/true) + kNormEpsilon);
}

/// Finds the network that the first convolution of a file belongs to.
LPIPSNet net_of_file(const TensorMap& tensors, const std::string& where) {
  require<FileError>(tensors.contains(kFirstWeight),
                     "{}: there is no tensor \"{}\"; expected the convolutions and heads of LPIPS with the "
                     "names of the Python package lpips, as examples/vqgan/convert_lpips.py writes them",
                     where, kFirstWeight);
  const Tensor& weight = tensors.at(kFirstWeight);
  if (weight.sizes() == at::IntArrayRef({64, 3, 3, 3})) return LPIPSNet::kVgg;
  require<FileError>(weight.sizes() == at::IntArrayRef({64, 3, 11, 11}),
                     "{}: \"{}\" is {}, expected [64, 3, 3, 3] of VGG16 or [64, 3, 11, 11] of AlexNet", where,
                     kFirstWeight, describe(weight));
  return LPIPSNet::kAlex;
}

/// The package registers its heads twice, as `lin0` and as `lins.0`; a safetensors file holds either.
std::string name_of_other_head(const std::string& name) {
  if (name.starts_with("lin") && name.size() > 3 && name[3] != 's')
    return "lins." + name.substr(3, 1) + name.substr(4);
  return {};
}

void warn_of_unexpected(const TensorMap& tensors, const TensorMap& known, const std::string& where) {
  for (const auto& [name, tensor] : tensors) {
    const bool is_second_head =
        name.starts_with("lins.") && name.size() > 5 && known.contains("lin" + name.substr(5));
    if (!known.contains(name) && !is_second_head)
      log_message(LogLevel::kWarning,
                  fmt::format("{}: LPIPS has no tensor \"{}\"; it is not used", where, name));
  }
}

void check_least_size(int64_t min_image_size) {
  require<ConfigError>(min_image_size >= 0, "min_image_size is {}, expected 0 or more", min_image_size);
}

void freeze(torch::nn::Module& module) {
  for (Tensor& parameter : module.parameters()) parameter.requires_grad_(false);
  module.eval();
}

/// Checks what a network of the user's returns.
void check_features(const std::vector<Tensor>& features, const std::string& network, int64_t batch) {
  require<TensorError>(!features.empty(), "LPIPS: the network \"{}\" gives no features, expected one tensor",
                       network);
  for (const Tensor& tensor : features)
    require<TensorError>(tensor.defined() && tensor.dim() == 4 && tensor.size(0) == batch,
                         "LPIPS: the network \"{}\" gives features {}, expected [{}, C, H, W]", network,
                         describe(tensor), batch);
}

}  // namespace

LPIPSImpl::LPIPSImpl(std::shared_ptr<LPIPSFeatures> network, int64_t min_image_size)
    : torch::nn::Module("LPIPS"), config_{.min_image_size = min_image_size}, network_(std::move(network)) {
  check_least_size(min_image_size);
  require<ConfigError>(network_ != nullptr, "LPIPS: the network is null, expected LPIPSFeatures");
  register_module("net", network_);
  freeze(*this);
}

LPIPSImpl::LPIPSImpl(const LPIPSConfig& config) : torch::nn::Module("LPIPS"), config_(config) {
  check_least_size(config.min_image_size);
  const auto scaling = register_module("scaling_layer", std::make_shared<torch::nn::Module>("ScalingLayer"));
  shift_ = scaling->register_buffer("shift", per_channel({-0.030, -0.088, -0.188}));
  scale_ = scaling->register_buffer("scale", per_channel({0.458, 0.448, 0.450}));

  const auto net = register_module("net", std::make_shared<torch::nn::Module>("Features"));
  std::vector<int64_t> widths;
  int64_t channels = 3;
  for (const FeatureStage& stage : feature_stages(config.net)) {
    const auto slice = net->register_module("slice" + std::to_string(stages_.size() + 1),
                                            std::make_shared<torch::nn::Module>("Slice"));
    Stage made{.pool = stage.pool, .convolutions = {}};
    for (const FeatureConv& convolution : stage.convolutions) {
      made.convolutions.emplace_back(
          slice->register_module(std::to_string(convolution.index),
                                 layers::Conv2d(channels, convolution.out_channels, convolution.options)));
      channels = convolution.out_channels;
    }
    stages_.push_back(std::move(made));
    widths.push_back(channels);
  }
  for (std::size_t i = 0; i < widths.size(); ++i) {
    const auto head = register_module("lin" + std::to_string(i), std::make_shared<torch::nn::Module>("Head"));
    const auto model = head->register_module("model", std::make_shared<torch::nn::Module>("Sequential"));
    heads_.emplace_back(model->register_module(
        "1", layers::Conv2d(widths[i], 1, layers::Conv2dOptions{.kernel_size = 1, .bias = false})));
  }
  freeze(*this);
}

void LPIPSImpl::check(const char* name, const Tensor& images) const {
  if (network_) {
    require<TensorError>(images.defined() && images.dim() == 4,
                         "LPIPS: {} is {}, expected images [B, C, H, W] in [-1, 1]", name, describe(images));
    const std::vector<Tensor> weights = network_->parameters();
    if (!weights.empty()) require_image(name, images, images.size(1), weights.front());
    return;
  }
  const Tensor& weight = stages_.front().convolutions.front()->weight;
  require<TensorError>(images.defined() && images.dim() == 4 && (images.size(1) == 1 || images.size(1) == 3),
                       "LPIPS: {} is {}, expected images [B, 3, H, W] or [B, 1, H, W] in [-1, 1]", name,
                       describe(images));
  require_image(name, images, images.size(1), weight);
}

Tensor LPIPSImpl::enlarged(const Tensor& images) const {
  const int64_t height = images.size(2);
  const int64_t width = images.size(3);
  const int64_t side = std::min(height, width);
  const int64_t least = config_.min_image_size;
  if (side >= least) return images;
  const auto scaled = [&](int64_t length) { return (length * least + side - 1) / side; };
  return at::upsample_bilinear2d(images, {scaled(height), scaled(width)}, /*align_corners=*/false);
}

std::vector<Tensor> LPIPSImpl::features(const Tensor& images) const {
  check("images", images);
  if (network_) {
    std::vector<Tensor> made = network_->features(enlarged(images));
    check_features(made, network_->name(), images.size(0));
    return made;
  }
  // One channel becomes three here.
  Tensor hidden = (enlarged(images) - shift_) / scale_;
  std::vector<Tensor> result;
  for (const Stage& stage : stages_) {
    if (stage.pool > 0) hidden = at::max_pool2d(hidden, stage.pool, 2);
    for (const layers::Conv2d& convolution : stage.convolutions)
      hidden = at::relu(feature_convolution(convolution, hidden));
    result.push_back(hidden);
  }
  return result;
}

Tensor LPIPSImpl::forward(const Tensor& x, const Tensor& y) const {
  const ForwardMemoryScope memory(x);
  check("x", x);
  check("y", y);
  require<TensorError>(x.sizes() == y.sizes(), "LPIPS: x is {} and y is {}, expected one shape", describe(x),
                       describe(y));
  const std::vector<Tensor> of_x = features(x);
  const std::vector<Tensor> of_y = features(y);
  Tensor distance;
  for (std::size_t i = 0; i < of_x.size(); ++i) {
    const Tensor difference = (unit_features(of_x[i]) - unit_features(of_y[i])).square();
    const Tensor of_place = network_ ? difference.sum(1, /*keepdim=*/true) : heads_[i]->forward(difference);
    const Tensor weighted = of_place.mean({2, 3}, /*keepdim=*/true);
    distance = distance.defined() ? distance + weighted : weighted;
  }
  return distance;
}

LPIPS LPIPS::from_pretrained(const std::filesystem::path& file, const LPIPSLoadOptions& options) {
  const TensorMap tensors = load_safetensors(file);
  const std::string where = file.string();
  const LPIPSNet net = net_of_file(tensors, where);
  const layers::SkipInitGuard skip_init;
  LPIPS lpips({.net = net, .min_image_size = options.min_image_size});
  const TensorMap known = state_dict(lpips);
  const at::NoGradGuard no_grad;
  std::vector<std::string> missing;
  for (const auto& [name, tensor] : known) {
    const std::string found = tensors.contains(name) ? name : name_of_other_head(name);
    if (!tensors.contains(found)) {
      if (!name.starts_with("scaling_layer.")) missing.push_back(name);
      continue;
    }
    const Tensor& value = tensors.at(found);
    require<FileError>(value.sizes() == tensor.sizes() && at::isFloatingType(value.scalar_type()),
                       "{}: \"{}\" is {}, expected {}", where, found, describe(value), describe(tensor));
    tensor.copy_(value);
  }
  require<FileError>(missing.empty(), "{}: LPIPS with the network \"{}\" needs the tensors {}", where,
                     enum_name(net), fmt::join(missing, ", "));
  warn_of_unexpected(tensors, known, where);
  require<ConfigError>(at::isFloatingType(options.dtype), "dtype is {}, expected a floating dtype",
                       dtype_name(options.dtype));
  lpips->to(options.device, options.dtype);
  return lpips;
}

}  // namespace diffusers
