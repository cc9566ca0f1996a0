#include <diffusers/models/vq_model.h>

#include <torch/types.h>

#include "core/require.h"
#include "models/checks.h"
#include "models/model_config.h"
#include "models/vae/vae_options.h"

namespace diffusers {

void visit_fields(VQModelConfig& config, ConfigVisitor& visit) {
  visit("in_channels", config.in_channels);
  visit("out_channels", config.out_channels);
  visit("down_block_types", config.down_block_types);
  visit("up_block_types", config.up_block_types);
  visit("block_out_channels", config.block_out_channels);
  visit("layers_per_block", config.layers_per_block);
  visit("act_fn", config.act_fn);
  visit("latent_channels", config.latent_channels);
  visit("sample_size", config.sample_size);
  visit("num_vq_embeddings", config.num_vq_embeddings);
  visit("norm_num_groups", config.norm_num_groups);
  visit("vq_embed_dim", config.vq_embed_dim);
  visit("scaling_factor", config.scaling_factor);
  visit("norm_type", config.norm_type);
  visit("mid_block_add_attention", config.mid_block_add_attention);
  visit("lookup_from_codebook", config.lookup_from_codebook);
  visit("force_upcast", config.force_upcast);
}

namespace {

constexpr double kCommitmentWeight = 0.25;

void check_vq_config(const VQModelConfig& config) {
  require_positive("latent_channels", config.latent_channels);
  require_positive("num_vq_embeddings", config.num_vq_embeddings, INT32_MAX);
  require_positive("vq_embed_dim", config.vq_embed_dim);
  check_sample_size(config.sample_size);
  require_factor("scaling_factor", config.scaling_factor);
  require<ConfigError>(
      config.norm_type != VaeNormType::kSpatial || !config.vq_embed_dim ||
          *config.vq_embed_dim == config.latent_channels,
      "vq_embed_dim is {} and latent_channels {}, which must be equal where norm_type is \"spatial\"",
      config.vq_embed_dim.value_or(0), config.latent_channels);
}

}  // namespace

VQModelImpl::VQModelImpl(VQModelConfig config) : ModelImpl(std::move(config)) {
  build_model(kClassName, [&] { reset(); });
}

void VQModelImpl::reset() {
  const auto& c = config();
  check_vq_config(c);
  const int64_t embed_dim = c.vq_embed_dim.value_or(c.latent_channels);
  const layers::Conv2dOptions conv1x1{.kernel_size = 1};

  encoder = register_module("encoder", VaeEncoder(vae_encoder_options(c, /*double_z=*/false)));
  quant_conv = register_module("quant_conv", layers::Conv2d(c.latent_channels, embed_dim, conv1x1));
  quantize = register_module("quantize", VectorQuantizer(c.num_vq_embeddings, embed_dim, kCommitmentWeight));
  post_quant_conv = register_module("post_quant_conv", layers::Conv2d(embed_dim, c.latent_channels, conv1x1));
  auto decoder_options = vae_decoder_options(c);
  decoder_options.norm_type = c.norm_type;
  decoder = register_module("decoder", VaeDecoder(decoder_options));
  set_gradient_checkpointing(gradient_checkpointing_);
}

void VQModelImpl::set_gradient_checkpointing(bool enabled) {
  gradient_checkpointing_ = enabled;
  encoder->set_gradient_checkpointing(enabled);
  decoder->set_gradient_checkpointing(enabled);
}

VQEncoderOutput VQModelImpl::encode(const Tensor& x) const {
  require_image("x", x, config().in_channels, encoder->conv_in->weight);
  return {quant_conv->forward(encoder->forward(x))};
}

DecoderOutput VQModelImpl::decode(const Tensor& h, const VQModelDecodeOptions& options) const {
  const bool lookup = options.force_not_quantize && config().lookup_from_codebook;
  if (!lookup) require_image("h", h, post_quant_conv->weight.size(1), post_quant_conv->weight);
  Tensor quantized;
  Tensor commit_loss;
  if (!options.force_not_quantize) {
    auto output = quantize->forward(h);
    quantized = output.quantized;
    commit_loss = output.loss;
  } else {
    if (lookup) {
      require<TensorError>(!options.shape.empty(),
                           "shape: expected {{B, h, w, {}}} of the latents that the indices stand for",
                           post_quant_conv->weight.size(1));
      quantized = quantize->get_codebook_entry(h, options.shape);
    } else {
      quantized = h;
    }
    commit_loss = torch::zeros({h.dim() == 0 ? 1 : h.size(0)}, h.options().requires_grad(false));
  }
  const bool spatial = config().norm_type == VaeNormType::kSpatial;
  return {.sample = decoder->forward(post_quant_conv->forward(quantized), spatial ? quantized : Tensor()),
          .commit_loss = commit_loss};
}

DecoderOutput VQModelImpl::forward(const Tensor& sample) const { return decode(encode(sample).latents); }

}  // namespace diffusers
