#include <cmath>
#include <utility>

#include <diffusers/models/resnet.h>
#include <diffusers/ops/group_norm.h>

#include <torch/types.h>

#include "core/require.h"
#include "models/layers/norm_conv.h"
#include "ops/upsample.h"

namespace diffusers {
namespace {

layers::Conv2d conv3x3(int64_t in_channels, int64_t out_channels) {
  return layers::Conv2d(in_channels, out_channels, layers::Conv2dOptions{.kernel_size = 3, .padding = 1});
}

void check_scale_and_dropout(double output_scale_factor, double dropout) {
  require<ConfigError>(std::isfinite(output_scale_factor) && output_scale_factor != 0,
                       "output_scale_factor is {}, expected a finite number other than 0",
                       output_scale_factor);
  require<ConfigError>(dropout >= 0 && dropout <= 1, "dropout is {}, expected a probability in [0, 1]",
                       dropout);
}

/// Adds to the result of a convolution, which has no other users, in its memory.
Tensor add_to_new(const Tensor& result, const Tensor& addend) {
  // Under autocast the dtypes can differ.
  return addend.scalar_type() == result.scalar_type() ? result.add_(addend) : addend + result;
}

/// Dropout draws its mask in the order of the memory. A norm before it therefore keeps the layout of its
/// input, as LibTorch's does.
Tensor keep_layout(bool draws, const Tensor& normed, const Tensor& input) {
  return draws ? normed.contiguous(input.suggest_memory_format()) : normed;
}

Tensor resample(ResnetResample how, const Tensor& hidden) {
  switch (how) {
    case ResnetResample::kNone:
      break;
    case ResnetResample::kUp:
      return upsample_double(hidden);
    case ResnetResample::kDown:
      require<TensorError>(hidden.size(2) >= 2 && hidden.size(3) >= 2,
                           "a sample is too small for the model: nothing is left of {} after downsampling",
                           shape_string(hidden.sizes()));
      return torch::avg_pool2d(hidden, 2, 2);
    case ResnetResample::kFirUp:
      return fir_upsample_2d(hidden);
    case ResnetResample::kFirDown:
      return fir_downsample_2d(hidden);
  }
  return hidden;
}

}  // namespace

ResnetBlock2DImpl::ResnetBlock2DImpl(const ResnetBlock2DOptions& options) : options_(options) {
  const int64_t in_channels = options.in_channels;
  const int64_t out_channels = options.out_channels.value_or(in_channels);
  const int64_t final_channels = options.conv_2d_out_channels.value_or(out_channels);
  const bool scale_shift = options.time_embedding_norm == ResnetTimeScaleShift::kScaleShift;
  check_scale_and_dropout(options.output_scale_factor, options.dropout);

  norm1_ = register_module("norm1", layers::GroupNorm(options.groups, in_channels, options.eps));
  conv1_ = register_module("conv1", conv3x3(in_channels, out_channels));
  if (options.temb_channels) {
    time_emb_proj_ = register_module(
        "time_emb_proj",
        layers::Linear(*options.temb_channels, scale_shift ? 2 * out_channels : out_channels));
  }
  norm2_ = register_module(
      "norm2", layers::GroupNorm(options.groups_out.value_or(options.groups), out_channels, options.eps));
  conv2_ = register_module("conv2", conv3x3(out_channels, final_channels));
  if (options.use_in_shortcut.value_or(in_channels != final_channels)) {
    conv_shortcut_ = register_module(
        "conv_shortcut",
        layers::Conv2d(in_channels, final_channels,
                       layers::Conv2dOptions{.kernel_size = 1, .bias = options.conv_shortcut_bias}));
  }
}

Tensor ResnetBlock2DImpl::forward(const Tensor& input, const Tensor& temb) const {
  const auto activation = options_.non_linearity;
  const bool draws = is_training() && options_.dropout > 0;
  // Neither dropout nor resampling is between a norm and its convolution.
  const bool is_direct = !draws && activation == layers::Activation::kSilu;
  Tensor hidden;
  if (is_direct && options_.resample == ResnetResample::kNone) {
    hidden = norm_silu_conv(norm1_, options_.groups, {.eps = options_.eps}, conv1_, input);
  } else {
    hidden = keep_layout(draws, layers::norm_activate(norm1_, activation, input), input);
    hidden = conv1_->forward(resample(options_.resample, hidden));
  }
  auto shortcut = resample(options_.resample, input);

  Tensor time;
  if (time_emb_proj_) {
    require<TensorError>(temb.defined(), "a residual block made with temb_channels needs a time embedding");
    time = time_emb_proj_->forward(options_.skip_time_act ? temb : layers::activate(activation, temb));
  }
  GroupNormOptions norm{.eps = options_.eps, .silu = activation == layers::Activation::kSilu};
  if (options_.time_embedding_norm == ResnetTimeScaleShift::kScaleShift) {
    require<TensorError>(time.defined(), "a residual block with \"scale_shift\" needs a time embedding");
    const auto scale_and_shift = time.chunk(2, 1);
    norm.scale = scale_and_shift[0];
    norm.shift = scale_and_shift[1];
  } else {
    norm.offset = time;
  }
  const int64_t groups = options_.groups_out.value_or(options_.groups);
  if (is_direct) {
    hidden = norm_silu_conv(norm2_, groups, norm, conv2_, std::move(hidden));
  } else {
    hidden = keep_layout(draws, group_norm(hidden, groups, norm2_->weight, norm2_->bias, norm), hidden);
    if (!norm.silu) hidden = layers::activate(activation, hidden);
    hidden = conv2_->forward(layers::dropout(hidden, options_.dropout, is_training()));
  }
  if (conv_shortcut_) shortcut = conv_shortcut_->forward(shortcut);
  hidden = draws ? shortcut + hidden : add_to_new(hidden, shortcut);
  return options_.output_scale_factor == 1 ? hidden : hidden / options_.output_scale_factor;
}

AdaGroupNormImpl::AdaGroupNormImpl(int64_t embedding_dim, int64_t channels, int64_t num_groups, double eps)
    : num_groups_(num_groups), eps_(eps) {
  require<ConfigError>(num_groups > 0 && channels % num_groups == 0,
                       "{} channels cannot be split into {} groups for a group norm", channels, num_groups);
  linear_ = register_module("linear", layers::Linear(embedding_dim, 2 * channels));
}

Tensor AdaGroupNormImpl::forward(const Tensor& input, const Tensor& embedding) const {
  const auto scale_and_shift = linear_->forward(embedding).chunk(2, 1);
  return group_norm(input, num_groups_, {}, {},
                    {.eps = eps_, .scale = scale_and_shift[0], .shift = scale_and_shift[1]});
}

ResnetBlockCondNorm2DImpl::ResnetBlockCondNorm2DImpl(const ResnetBlockCondNorm2DOptions& options)
    : options_(options) {
  const int64_t in_channels = options.in_channels;
  const int64_t out_channels = options.out_channels.value_or(in_channels);
  const int64_t final_channels = options.conv_2d_out_channels.value_or(out_channels);
  const int64_t groups_out = options.groups_out.value_or(options.groups);
  check_scale_and_dropout(options.output_scale_factor, options.dropout);

  const bool spatial = options.time_embedding_norm == ResnetConditionalNorm::kSpatial;
  if (spatial) {
    spatial_norm1_ = register_module("norm1", SpatialNorm(in_channels, options.temb_channels));
  } else {
    norm1_ = register_module("norm1",
                             AdaGroupNorm(options.temb_channels, in_channels, options.groups, options.eps));
  }
  conv1_ = register_module("conv1", conv3x3(in_channels, out_channels));
  if (spatial) {
    spatial_norm2_ = register_module("norm2", SpatialNorm(out_channels, options.temb_channels));
  } else {
    norm2_ =
        register_module("norm2", AdaGroupNorm(options.temb_channels, out_channels, groups_out, options.eps));
  }
  conv2_ = register_module("conv2", conv3x3(out_channels, final_channels));
  if (in_channels != final_channels) {
    conv_shortcut_ = register_module(
        "conv_shortcut",
        layers::Conv2d(in_channels, final_channels,
                       layers::Conv2dOptions{.kernel_size = 1, .bias = options.conv_shortcut_bias}));
  }
}

Tensor ResnetBlockCondNorm2DImpl::forward(const Tensor& input, const Tensor& temb) const {
  const bool draws = is_training() && options_.dropout > 0;
  auto hidden = norm1_ ? norm1_->forward(input, temb) : spatial_norm1_->forward(input, temb);
  hidden = conv1_->forward(layers::activate(options_.non_linearity, keep_layout(draws, hidden, input)));
  const auto normed = norm2_ ? norm2_->forward(hidden, temb) : spatial_norm2_->forward(hidden, temb);
  hidden = keep_layout(draws, normed, hidden);
  hidden = layers::activate(options_.non_linearity, hidden);
  hidden = conv2_->forward(layers::dropout(hidden, options_.dropout, is_training()));
  const auto shortcut = conv_shortcut_ ? conv_shortcut_->forward(input) : input;
  hidden = draws ? shortcut + hidden : add_to_new(hidden, shortcut);
  return options_.output_scale_factor == 1 ? hidden : hidden / options_.output_scale_factor;
}

}  // namespace diffusers
