#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include <diffusers/models/discriminator.h>

#include <torch/nn/init.h>
#include <torch/types.h>

#include "core/require.h"
#include "models/checks.h"
#include "models/layers/joined_batch.h"
#include "models/model_config.h"

namespace diffusers {
namespace {

constexpr int64_t kPatchKernel = 4;
constexpr int64_t kPatchPadding = 1;
constexpr double kLeakySlope = 0.2;
constexpr double kInitStd = 0.02;
constexpr double kActNormEpsilon = 1e-6;
constexpr int64_t kMostWidthFactor = 8;

/// Channels after `layer` convolutions in units of `ndf`: 1, 2, 4, 8, 8, ...
int64_t width_factor(int64_t layer) { return layer < 3 ? int64_t{1} << layer : kMostWidthFactor; }

}  // namespace

void visit_fields(NLayerDiscriminatorConfig& config, ConfigVisitor& visit) {
  visit("input_nc", config.input_nc);
  visit("ndf", config.ndf);
  visit("n_layers", config.n_layers);
  visit("use_actnorm", config.use_actnorm);
}

ActNormImpl::ActNormImpl(int64_t num_features) : torch::nn::Module("ActNorm") {
  require<ConfigError>(num_features > 0, "an ActNorm over {} channels: must be positive", num_features);
  loc = register_parameter("loc", torch::zeros({1, num_features, 1, 1}));
  scale = register_parameter("scale", torch::ones({1, num_features, 1, 1}));
  initialized = register_buffer("initialized", torch::zeros({}, torch::kByte));
}

bool ActNormImpl::is_initialized() {
  const auto version = static_cast<int64_t>(initialized._version());
  if (!known_ || version != known_version_) {
    known_ = initialized.item<uint8_t>() != 0;
    known_version_ = version;
  }
  return known_;
}

Tensor ActNormImpl::forward(const Tensor& input) {
  require<TensorError>(input.defined() && input.dim() == 4 && input.size(1) == loc.size(1),
                       "ActNorm: the input is {}, expected [B, {}, H, W]", describe(input), loc.size(1));
  if (is_training() && !is_initialized()) {
    const at::NoGradGuard no_grad;
    if (const auto batch = JoinedBatch::current()) {
      const JoinedMoments moments = joined_moments("ActNorm", input, *batch);
      const Tensor variance = moments.variance * (moments.count / (moments.count - 1));
      loc.copy_(-moments.mean.view(loc.sizes()));
      scale.copy_(1 / (variance.sqrt().view(scale.sizes()) + kActNormEpsilon));
    } else {
      const Tensor channels = input.permute({1, 0, 2, 3}).flatten(1).to(loc.scalar_type());
      loc.copy_(-channels.mean(1).view(loc.sizes()));
      scale.copy_(1 / (channels.std(1).view(scale.sizes()) + kActNormEpsilon));
    }
    initialized.fill_(1);
  }
  return scale * (input + loc);
}

NLayerDiscriminatorImpl::NLayerDiscriminatorImpl(NLayerDiscriminatorConfig config)
    : ModelImpl(std::move(config)) {
  build_model(kClassName, [&] { reset(); });
}

void NLayerDiscriminatorImpl::reset() {
  const auto& c = config();
  require_positive("input_nc", c.input_nc);
  require_positive("ndf", c.ndf, kMostChannels / kMostWidthFactor);
  require_positive("n_layers", c.n_layers, kMostLayers);
  layers_.clear();
  num_children_ = 0;
  const auto main = register_module("main", std::make_shared<torch::nn::Module>("Sequential"));
  add_layer(*main, c.input_nc, c.ndf, /*stride=*/2, /*has_norm=*/false, /*has_activation=*/true);
  for (int64_t layer = 1; layer <= c.n_layers; ++layer)
    add_layer(*main, c.ndf * width_factor(layer - 1), c.ndf * width_factor(layer),
              /*stride=*/layer < c.n_layers ? 2 : 1, /*has_norm=*/true, /*has_activation=*/true);
  add_layer(*main, c.ndf * width_factor(c.n_layers), 1, /*stride=*/1, /*has_norm=*/false,
            /*has_activation=*/false);
  draw_weights();
}

/// Registers the layer's modules under their places in Python's `nn.Sequential`.
void NLayerDiscriminatorImpl::add_layer(torch::nn::Module& main, int64_t in_channels, int64_t out_channels,
                                        int64_t stride, bool has_norm, bool has_activation) {
  const auto next_name = [this] { return std::to_string(num_children_++); };
  const bool use_actnorm = config().use_actnorm;
  Layer layer;
  layer.convolution = main.register_module(
      next_name(), layers::Conv2d(in_channels, out_channels,
                                  layers::Conv2dOptions{.kernel_size = kPatchKernel,
                                                        .stride = stride,
                                                        .padding = kPatchPadding,
                                                        .bias = !has_norm || use_actnorm}));
  if (has_norm && use_actnorm) layer.act_norm = main.register_module(next_name(), ActNorm(out_channels));
  if (has_norm && !use_actnorm)
    layer.batch_norm = main.register_module(next_name(), SyncBatchNorm2d(out_channels));
  if (has_activation) ++num_children_;
  layers_.push_back(std::move(layer));
}

/// taming-transformers' `weights_init`: biases of convolutions keep what their layers drew.
void NLayerDiscriminatorImpl::draw_weights() {
  if (layers::SkipInitGuard::active()) return;
  for (const Layer& layer : layers_) {
    torch::nn::init::normal_(layer.convolution->weight, 0.0, kInitStd);
    if (!layer.batch_norm.is_empty()) torch::nn::init::normal_(layer.batch_norm->weight, 1.0, kInitStd);
  }
}

int64_t NLayerDiscriminatorImpl::min_image_size() const {
  // Backwards from one patch: a convolution gives floor((side + 2 - 4) / stride) + 1.
  int64_t side = 1;
  for (int64_t layer = config().n_layers + 1; layer >= 0; --layer) {
    const int64_t stride = layer < config().n_layers ? 2 : 1;
    side = std::min<int64_t>((side - 1) * stride + kPatchKernel - 2 * kPatchPadding, INT32_MAX);
  }
  return side;
}

Tensor NLayerDiscriminatorImpl::forward(const Tensor& input) {
  require_image("input", input, config().input_nc, layers_.front().convolution->weight);
  require<TensorError>(std::min(input.size(2), input.size(3)) >= min_image_size(),
                       "NLayerDiscriminator: the input is {}, expected a height and width of {} or more for "
                       "n_layers {}",
                       describe(input), min_image_size(), config().n_layers);
  Tensor hidden = input;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    hidden = layer.convolution->forward(hidden);
    if (!layer.batch_norm.is_empty()) hidden = layer.batch_norm->forward(hidden);
    if (!layer.act_norm.is_empty()) hidden = layer.act_norm->forward(hidden);
    if (i + 1 < layers_.size()) hidden = at::leaky_relu(hidden, kLeakySlope);
  }
  return hidden;
}

}  // namespace diffusers
