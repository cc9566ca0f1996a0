#include <cmath>

#include <diffusers/models/autoencoder_kl.h>

#include <torch/types.h>

#include "core/require.h"
#include "models/checks.h"
#include "models/model_config.h"
#include "models/vae/vae_options.h"
#include "models/vae/vae_settings.h"
#include "models/vae/vae_slices.h"
#include "models/vae/vae_tiles.h"

namespace diffusers {

void visit_fields(AutoencoderKLConfig& config, ConfigVisitor& visit) {
  visit("in_channels", config.in_channels);
  visit("out_channels", config.out_channels);
  visit("down_block_types", config.down_block_types);
  visit("up_block_types", config.up_block_types);
  visit("block_out_channels", config.block_out_channels);
  visit("layers_per_block", config.layers_per_block);
  visit("act_fn", config.act_fn);
  visit("latent_channels", config.latent_channels);
  visit("norm_num_groups", config.norm_num_groups);
  visit("sample_size", config.sample_size);
  visit("scaling_factor", config.scaling_factor);
  visit("shift_factor", config.shift_factor);
  visit("latents_mean", config.latents_mean);
  visit("latents_std", config.latents_std);
  visit("force_upcast", config.force_upcast);
  visit("use_quant_conv", config.use_quant_conv);
  visit("use_post_quant_conv", config.use_post_quant_conv);
  visit("mid_block_add_attention", config.mid_block_add_attention);
}

namespace {

void check_autoencoder_config(const AutoencoderKLConfig& config) {
  require_positive("latent_channels", config.latent_channels);
  require<ConfigError>(!config.sample_size.empty(), "sample_size is [], expected one number or two");
  check_sample_size(config.sample_size);
  require_factor("scaling_factor", config.scaling_factor);
  require<ConfigError>(!config.shift_factor || std::isfinite(*config.shift_factor),
                       "shift_factor is {}, expected a finite number", config.shift_factor.value_or(0));
  const auto latents = static_cast<std::size_t>(config.latent_channels);
  const auto check_statistics = [&](const char* key, const std::vector<double>& values) {
    require<ConfigError>(values.empty() || values.size() == latents,
                         "{} has {} elements, expected one for each of latent_channels = {}", key,
                         values.size(), latents);
  };
  check_statistics("latents_mean", config.latents_mean);
  check_statistics("latents_std", config.latents_std);
}

}  // namespace

AutoencoderKLImpl::AutoencoderKLImpl(AutoencoderKLConfig config) : ModelImpl(std::move(config)) {
  build_model(kClassName, [&] { reset(); });
}

void AutoencoderKLImpl::reset() {
  const auto& c = config();
  check_autoencoder_config(c);
  const layers::Conv2dOptions conv1x1{.kernel_size = 1};

  encoder = register_module("encoder", VaeEncoder(vae_encoder_options(c, /*double_z=*/true)));
  decoder = register_module("decoder", VaeDecoder(vae_decoder_options(c)));
  if (c.use_quant_conv) {
    quant_conv =
        register_module("quant_conv", layers::Conv2d(2 * c.latent_channels, 2 * c.latent_channels, conv1x1));
  }
  if (c.use_post_quant_conv) {
    post_quant_conv =
        register_module("post_quant_conv", layers::Conv2d(c.latent_channels, c.latent_channels, conv1x1));
  }
  set_gradient_checkpointing(gradient_checkpointing_);

  tile_sample_min_size = c.sample_size.value();
  const double scale = std::ldexp(1.0, static_cast<int>(c.block_out_channels.size()) - 1);
  tile_latent_min_size = static_cast<int64_t>(static_cast<double>(tile_sample_min_size) / scale);
  tile_overlap_factor = 0.25;
}

void AutoencoderKLImpl::copy_settings(const AutoencoderKLImpl& other) {
  set_gradient_checkpointing(other.gradient_checkpointing_);
  copy_slices_and_tiles(other, *this);
}

void AutoencoderKLImpl::set_gradient_checkpointing(bool enabled) {
  gradient_checkpointing_ = enabled;
  encoder->set_gradient_checkpointing(enabled);
  decoder->set_gradient_checkpointing(enabled);
}

Tensor AutoencoderKLImpl::encode_tile(const Tensor& x) const {
  const auto moments = encoder->forward(x);
  return quant_conv ? quant_conv->forward(moments) : moments;
}

Tensor AutoencoderKLImpl::decode_tile(const Tensor& z) const {
  return decoder->forward(post_quant_conv ? post_quant_conv->forward(z) : z);
}

Tensor AutoencoderKLImpl::encode_tiles(const Tensor& x) const {
  return run_in_tiles(x,
                      {.input_size = tile_sample_min_size,
                       .output_size = tile_latent_min_size,
                       .overlap_factor = tile_overlap_factor},
                      [this](const Tensor& tile) { return encode_tile(tile); });
}

Tensor AutoencoderKLImpl::decode_tiles(const Tensor& z) const {
  return run_in_tiles(z,
                      {.input_size = tile_latent_min_size,
                       .output_size = tile_sample_min_size,
                       .overlap_factor = tile_overlap_factor},
                      [this](const Tensor& tile) { return decode_tile(tile); });
}

AutoencoderKLOutput AutoencoderKLImpl::tiled_encode(const Tensor& x) const {
  require_image("x", x, config().in_channels, encoder->conv_in->weight);
  return {DiagonalGaussianDistribution(encode_tiles(x))};
}

DecoderOutput AutoencoderKLImpl::tiled_decode(const Tensor& z) const {
  require_image("z", z, config().latent_channels, decoder->conv_in->weight);
  return {decode_tiles(z)};
}

AutoencoderKLOutput AutoencoderKLImpl::encode(const Tensor& x) const {
  require_image("x", x, config().in_channels, encoder->conv_in->weight);
  const bool tiling = use_tiling && (x.size(2) > tile_sample_min_size || x.size(3) > tile_sample_min_size);
  const auto moments = for_each_sample(x, use_slicing, [&](const Tensor& images) {
    return tiling ? encode_tiles(images) : encode_tile(images);
  });
  return {DiagonalGaussianDistribution(moments)};
}

DecoderOutput AutoencoderKLImpl::decode(const Tensor& z) const {
  require_image("z", z, config().latent_channels, decoder->conv_in->weight);
  const bool tiling = use_tiling && (z.size(2) > tile_latent_min_size || z.size(3) > tile_latent_min_size);
  return {for_each_sample(z, use_slicing, [&](const Tensor& latents) {
    return tiling ? decode_tiles(latents) : decode_tile(latents);
  })};
}

DecoderOutput AutoencoderKLImpl::forward(const Tensor& sample,
                                         const AutoencoderKLForwardOptions& options) const {
  const auto posterior = encode(sample).latent_dist;
  return decode(options.sample_posterior ? posterior.sample(options.generator) : posterior.mode());
}

}  // namespace diffusers
