#include <cmath>
#include <utility>

#include <diffusers/core/logging.h>
#include <diffusers/models/autoencoder_tiny.h>

#include <torch/types.h>

#include "core/config_fields.h"
#include "core/require.h"
#include "models/checks.h"
#include "models/model_config.h"
#include "models/vae/vae_settings.h"
#include "models/vae/vae_slices.h"
#include "models/vae/weighted_tiles.h"

namespace diffusers {

void visit_fields(AutoencoderTinyConfig& config, ConfigVisitor& visit) {
  visit("in_channels", config.in_channels);
  visit("out_channels", config.out_channels);
  visit("encoder_block_out_channels", config.encoder_block_out_channels);
  visit("decoder_block_out_channels", config.decoder_block_out_channels);
  visit("act_fn", config.act_fn);
  visit("upsample_fn", config.upsample_fn);
  visit("latent_channels", config.latent_channels);
  visit("upsampling_scaling_factor", config.upsampling_scaling_factor);
  visit("num_encoder_blocks", config.num_encoder_blocks);
  visit("num_decoder_blocks", config.num_decoder_blocks);
  visit("latent_magnitude", config.latent_magnitude);
  visit("latent_shift", config.latent_shift);
  visit("force_upcast", config.force_upcast);
  visit("scaling_factor", config.scaling_factor);
  visit("shift_factor", config.shift_factor);
  visit("block_out_channels", config.block_out_channels);
}

void read_model_config(std::string_view json, std::string_view where, AutoencoderTinyConfig& config,
                       std::string& source, LoadReport& report) {
  detail::read_config(
      json, where, AutoencoderTinyImpl::kClassName,
      [&](ConfigVisitor& visit) { visit_fields(config, visit); }, source, report);
  if (!config.force_upcast) return;
  // The model sets the field to false, and so does its file.
  Json kept = parse_json(source, where);
  kept["force_upcast"] = false;
  source = dump_json(kept);
}

std::string write_model_config(const AutoencoderTinyConfig& config, std::string_view source) {
  AutoencoderTinyConfig copy = config;
  auto fields = config_fields::to_json([&](ConfigVisitor& visit) { visit_fields(copy, visit); });
  return write_config_json(std::move(fields), source, AutoencoderTinyImpl::kClassName, {"latent_magnitude"});
}

namespace {

void check_tiny_config(const AutoencoderTinyConfig& config) {
  require_positive("latent_channels", config.latent_channels);
  const auto require_finite = [](const char* key, double value, bool may_be_zero) {
    require<ConfigError>(std::isfinite(value) && (may_be_zero || value != 0),
                         "{} is {}, expected a finite number{}", key, value,
                         may_be_zero ? "" : " other than 0");
  };
  require_finite("latent_magnitude", config.latent_magnitude, /*may_be_zero=*/false);
  require_finite("latent_shift", config.latent_shift, /*may_be_zero=*/true);
  require_finite("scaling_factor", config.scaling_factor, /*may_be_zero=*/false);
  require_finite("shift_factor", config.shift_factor, /*may_be_zero=*/true);
}

/// Returns the config that Python's class keeps.
/// @throws ConfigError unless all block_out_channels are positive
AutoencoderTinyConfig kept_config(AutoencoderTinyConfig config) {
  if (config.force_upcast)
    log_message(LogLevel::kWarning, "AutoencoderTiny: force_upcast = true has no effect, it is set to false");
  config.force_upcast = false;
  for (const auto channels : config.block_out_channels) require_positive("block_out_channels", channels);
  if (config.block_out_channels.empty()) config.block_out_channels = config.decoder_block_out_channels;
  return config;
}

int64_t integral_power(int64_t base, std::size_t exponent) {
  int64_t result = 1;
  for (std::size_t i = 0; i < exponent; ++i) result *= base;
  return result;
}

}  // namespace

AutoencoderTinyImpl::AutoencoderTinyImpl(AutoencoderTinyConfig config)
    : ModelImpl(kept_config(std::move(config))) {
  build_model(kClassName, [&] { reset(); });
}

void AutoencoderTinyImpl::reset() {
  const auto& c = config();
  check_tiny_config(c);
  encoder = register_module("encoder",
                            EncoderTiny(EncoderTinyOptions{.in_channels = c.in_channels,
                                                           .out_channels = c.latent_channels,
                                                           .num_blocks = c.num_encoder_blocks,
                                                           .block_out_channels = c.encoder_block_out_channels,
                                                           .act_fn = c.act_fn}));
  decoder = register_module(
      "decoder", DecoderTiny(DecoderTinyOptions{.in_channels = c.latent_channels,
                                                .out_channels = c.out_channels,
                                                .num_blocks = c.num_decoder_blocks,
                                                .block_out_channels = c.decoder_block_out_channels,
                                                .upsampling_scaling_factor = c.upsampling_scaling_factor,
                                                .act_fn = c.act_fn,
                                                .upsample_fn = c.upsample_fn}));
  set_gradient_checkpointing(gradient_checkpointing_);
  tile_sample_min_size = 512;
  tile_latent_min_size = tile_sample_min_size / integral_power(2, c.num_encoder_blocks.size() - 1);
  tile_overlap_factor = 0.125;
}

void AutoencoderTinyImpl::copy_settings(const AutoencoderTinyImpl& other) {
  set_gradient_checkpointing(other.gradient_checkpointing_);
  copy_slices_and_tiles(other, *this);
}

void AutoencoderTinyImpl::set_gradient_checkpointing(bool enabled) {
  gradient_checkpointing_ = enabled;
  encoder->set_gradient_checkpointing(enabled);
  decoder->set_gradient_checkpointing(enabled);
}

AutoencoderTinyOutput AutoencoderTinyImpl::encode(const Tensor& x) const {
  require_image("x", x, config().in_channels, encoder->conv_in->weight);
  return {for_each_sample(x, use_slicing, [this](const Tensor& images) {
    const auto run = [this](const Tensor& tile) { return encoder->forward(tile); };
    if (!use_tiling) return run(images);
    return run_in_weighted_tiles(images,
                                 {.name = "tile_sample_min_size",
                                  .size = tile_sample_min_size,
                                  .overlap_factor = tile_overlap_factor,
                                  .divisor = integral_power(2, config().num_encoder_blocks.size() - 1)},
                                 run);
  })};
}

DecoderOutput AutoencoderTinyImpl::decode(const Tensor& x) const {
  require_image("x", x, config().latent_channels, decoder->conv_in->weight);
  return {for_each_sample(x, use_slicing, [this](const Tensor& latents) {
    const auto run = [this](const Tensor& tile) { return decoder->forward(tile); };
    if (!use_tiling) return run(latents);
    return run_in_weighted_tiles(latents,
                                 {.name = "tile_latent_min_size",
                                  .size = tile_latent_min_size,
                                  .overlap_factor = tile_overlap_factor,
                                  .factor = integral_power(config().upsampling_scaling_factor,
                                                           config().num_decoder_blocks.size() - 1)},
                                 run);
  })};
}

Tensor AutoencoderTinyImpl::scale_latents(const Tensor& x) const {
  return x.div(2 * config().latent_magnitude).add(config().latent_shift).clamp(0, 1);
}

Tensor AutoencoderTinyImpl::unscale_latents(const Tensor& x) const {
  return x.sub(config().latent_shift).mul(2 * config().latent_magnitude);
}

DecoderOutput AutoencoderTinyImpl::forward(const Tensor& sample) const {
  const auto latents = encode(sample).latents;
  const auto bytes = scale_latents(latents).mul(255).round().to(torch::kByte);
  // The quotient of bytes is float32.
  return decode(unscale_latents(bytes / 255.0).to(decoder->conv_in->weight.scalar_type()));
}

}  // namespace diffusers
