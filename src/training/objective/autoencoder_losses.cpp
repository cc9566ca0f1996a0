#include <algorithm>
#include <cmath>

#include <diffusers/training/autoencoder_losses.h>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <torch/autograd.h>

#include "core/require.h"
#include "models/layers/joined_batch.h"

namespace diffusers {
namespace {

constexpr double kLeastGradient = 1e-4;
constexpr double kMostAdaptiveWeight = 1e4;

void require_weight(const char* key, double value) {
  require<ConfigError>(std::isfinite(value) && value >= 0, "{} is {}, expected a finite number of 0 or more",
                       key, value);
}

/// A field that describes the discriminator: its default, or what the one that was given has.
template <class T>
void require_discriminator_fit(const char* key, T value, T by_default, const char* own_key, T own) {
  require<ConfigError>(value == by_default || value == own,
                       "{} is {}, but the discriminator that was given has {} {}; leave {} at its default, "
                       "{}, or make them equal",
                       key, value, own_key, own, key, by_default);
}

/// Computes the gradient of a mean over the batch, which several processes may compute together.
/// @return undefined if `loss` does not depend on `last_layer`
Tensor last_layer_gradient(const Tensor& loss, const Tensor& last_layer) {
  if (!loss.requires_grad() || !last_layer.defined() || !last_layer.requires_grad()) return {};
  const auto batch = JoinedBatch::current();
  Tensor gradient = torch::autograd::grad({batch ? loss * batch->share() : loss}, {last_layer}, {},
                                          /*retain_graph=*/true, /*create_graph=*/false,
                                          /*allow_unused=*/true)
                        .front();
  return batch && gradient.defined() ? batch->sum(gradient) : gradient;
}

/// Returns the fields that the configs of both losses have.
template <class Options, class Config>
Options shared_options(const Config& config) {
  int64_t disc_ndf = NLayerDiscriminatorConfig{}.ndf;
  if constexpr (requires { config.disc_ndf; }) disc_ndf = config.disc_ndf;
  return {.disc_start = config.disc_start,
          .pixelloss_weight = config.pixelloss_weight,
          .disc_num_layers = config.disc_num_layers,
          .disc_in_channels = config.disc_in_channels,
          .disc_factor = config.disc_factor,
          .disc_weight = config.disc_weight,
          .perceptual_weight = config.perceptual_weight,
          .use_actnorm = config.use_actnorm,
          .disc_conditional = config.disc_conditional,
          .disc_ndf = disc_ndf,
          .disc_loss = config.disc_loss,
          .pixel_loss = config.pixel_loss};
}

/// Sets the means of the terms of a reconstruction, if they are asked for.
/// @param perceptual undefined without LPIPS
void set_reconstruction_details(const Tensor& pixel, const Tensor& perceptual, GeneratorDetails* details) {
  if (details == nullptr) return;
  details->rec_loss = pixel.detach().mean();
  details->p_loss = perceptual.defined() ? perceptual.detach().mean() : at::zeros_like(details->rec_loss);
}

}  // namespace

Tensor hinge_d_loss(const Tensor& logits_real, const Tensor& logits_fake) {
  return 0.5 * (at::relu(1 - logits_real).mean() + at::relu(1 + logits_fake).mean());
}

Tensor vanilla_d_loss(const Tensor& logits_real, const Tensor& logits_fake) {
  return 0.5 * (at::softplus(-logits_real).mean() + at::softplus(logits_fake).mean());
}

AdversarialLossImpl::AdversarialLossImpl(const char* name, const Options& options, LPIPS lpips,
                                         NLayerDiscriminator disc)
    : torch::nn::Module(name),
      perceptual_loss(std::move(lpips)),
      discriminator(std::move(disc)),
      options_(options) {
  require<ConfigError>(options.disc_start >= 0, "disc_start is {}, expected 0 or more", options.disc_start);
  require_weight("pixelloss_weight", options.pixelloss_weight);
  require_weight("disc_factor", options.disc_factor);
  require_weight("disc_weight", options.disc_weight);
  require_weight("perceptual_weight", options.perceptual_weight);
  require<ConfigError>(
      options.perceptual_weight == 0 || !perceptual_loss.is_empty(),
      "perceptual_weight is {}, but there is no LPIPS; load one with LPIPS::from_pretrained, "
      "or set perceptual_weight to 0",
      options.perceptual_weight);
  if (discriminator.is_empty()) {
    if (options.disc_factor > 0)
      discriminator = NLayerDiscriminator({.input_nc = options.disc_in_channels,
                                           .ndf = options.disc_ndf,
                                           .n_layers = options.disc_num_layers,
                                           .use_actnorm = options.use_actnorm});
    return;
  }
  const NLayerDiscriminatorConfig& given = discriminator->config();
  const NLayerDiscriminatorConfig defaults;
  require_discriminator_fit("disc_num_layers", options.disc_num_layers, defaults.n_layers, "n_layers",
                            given.n_layers);
  require_discriminator_fit("disc_in_channels", options.disc_in_channels, defaults.input_nc, "input_nc",
                            given.input_nc);
  require_discriminator_fit("disc_ndf", options.disc_ndf, defaults.ndf, "ndf", given.ndf);
  require_discriminator_fit("use_actnorm", options.use_actnorm, defaults.use_actnorm, "use_actnorm",
                            given.use_actnorm);
}

void AdversarialLossImpl::register_networks() {
  if (!perceptual_loss.is_empty()) register_module("perceptual_loss", perceptual_loss);
  if (!discriminator.is_empty()) register_module("discriminator", discriminator);
}

double AdversarialLossImpl::disc_factor_at(int64_t global_step) const {
  return global_step < options_.disc_start ? 0.0 : options_.disc_factor;
}

Tensor AdversarialLossImpl::pixel_losses(const Tensor& inputs, const Tensor& reconstructions) const {
  require<TensorError>(inputs.defined() && reconstructions.defined() && inputs.dim() == 4 &&
                           inputs.sizes() == reconstructions.sizes(),
                       "the images are {} and their reconstructions {}, expected one shape [B, C, H, W]",
                       describe(inputs), describe(reconstructions));
  const Tensor difference = inputs - reconstructions;
  const Tensor losses = options_.pixel_loss == PixelLoss::kL1 ? difference.abs() : difference.square();
  return options_.pixelloss_weight == 1 ? losses : losses * options_.pixelloss_weight;
}

Tensor AdversarialLossImpl::perceptual_losses(const Tensor& inputs, const Tensor& reconstructions) const {
  return options_.perceptual_weight > 0 ? perceptual_loss(inputs, reconstructions) : Tensor();
}

Tensor AdversarialLossImpl::judge(const Tensor& images, const Tensor& cond) {
  require<ConfigError>(!discriminator.is_empty(), "there is no discriminator, since disc_factor is 0");
  require<ConfigError>(cond.defined() == options_.disc_conditional,
                       "disc_conditional is {}, but a conditioning image was {}", options_.disc_conditional,
                       cond.defined() ? "given" : "not given");
  return discriminator(cond.defined() ? at::cat({images, cond}, 1) : images);
}

AdversarialLossImpl::Adversary AdversarialLossImpl::adversary(const Tensor& reconstructions,
                                                              const Tensor& nll_loss,
                                                              const Tensor& pixel_part, int64_t global_step,
                                                              const Tensor& last_layer,
                                                              const GeneratorLossOptions& options) {
  const Tensor zero = at::zeros({}, nll_loss.options().requires_grad(false));
  const bool is_judged =
      !discriminator.is_empty() && !(options.skip_idle_discriminator && disc_factor_at(global_step) == 0);
  Adversary result{.g_loss = is_judged ? -judge(reconstructions, options.cond).mean() : zero,
                   .d_weight = zero};
  GeneratorDetails* details = options.details;
  if (details != nullptr)
    details->rec_grad_norm = details->p_grad_norm = details->nll_grad_norm = details->g_grad_norm = zero;
  const bool is_weighed = is_judged && has_discriminator();
  if (!is_weighed && details == nullptr) return result;

  const Tensor nll_gradient = last_layer_gradient(nll_loss, last_layer);
  // Without gradients at all, as where the origin of a NaN is looked for, there is no weight either.
  require<TensorError>(nll_gradient.defined() || !is_training() || !at::GradMode::is_enabled(),
                       "the last layer is {}, expected a weight that requires a gradient and that the "
                       "reconstructions depend on; call eval() to compute the loss without gradients",
                       describe(last_layer));
  if (!nll_gradient.defined()) return result;
  const Tensor nll_norm = nll_gradient.norm();
  const Tensor g_norm = is_judged ? last_layer_gradient(result.g_loss, last_layer).norm() : zero;
  if (is_weighed)
    result.d_weight =
        (nll_norm / (g_norm + kLeastGradient)).clamp(0, kMostAdaptiveWeight) * options_.disc_weight;
  if (details != nullptr) {
    const Tensor pixel_gradient = last_layer_gradient(pixel_part, last_layer);
    details->rec_grad_norm = pixel_gradient.norm();
    if (options_.perceptual_weight > 0) details->p_grad_norm = (nll_gradient - pixel_gradient).norm();
    details->nll_grad_norm = nll_norm;
    details->g_grad_norm = g_norm;
  }
  return result;
}

Tensor AdversarialLossImpl::discriminator_loss(const Tensor& inputs, const Tensor& reconstructions,
                                               int64_t global_step, const Tensor& cond) {
  require<TensorError>(
      inputs.defined() && reconstructions.defined() && inputs.sizes() == reconstructions.sizes(),
      "the images are {} and their reconstructions {}, expected one shape [B, C, H, W]", describe(inputs),
      describe(reconstructions));
  const Tensor logits_real = judge(inputs.detach(), cond);
  const Tensor logits_fake = judge(reconstructions.detach(), cond);
  const Tensor d_loss = options_.disc_loss == DiscLoss::kHinge ? hinge_d_loss(logits_real, logits_fake)
                                                               : vanilla_d_loss(logits_real, logits_fake);
  return disc_factor_at(global_step) * d_loss;
}

LPIPSWithDiscriminatorImpl::LPIPSWithDiscriminatorImpl(const LPIPSWithDiscriminatorConfig& config,
                                                       LPIPS lpips, NLayerDiscriminator disc)
    : AdversarialLossImpl("LPIPSWithDiscriminator", shared_options<Options>(config), std::move(lpips),
                          std::move(disc)),
      config_(config) {
  require_weight("kl_weight", config.kl_weight);
  require<ConfigError>(std::isfinite(config.logvar_init), "logvar_init is {}, expected a finite number",
                       config.logvar_init);
  logvar = register_parameter("logvar", at::full({}, config.logvar_init, at::kFloat));
  register_networks();
}

KLGeneratorLoss LPIPSWithDiscriminatorImpl::generator_loss(const Tensor& inputs,
                                                           const Tensor& reconstructions,
                                                           const DiagonalGaussianDistribution& posterior,
                                                           int64_t global_step, const Tensor& last_layer,
                                                           const GeneratorLossOptions& options) {
  const Tensor pixel = pixel_losses(inputs, reconstructions);
  const Tensor perceptual = perceptual_losses(inputs, reconstructions);
  const Tensor rec = perceptual.defined() ? pixel + config_.perceptual_weight * perceptual : pixel;
  const auto samples = static_cast<double>(inputs.size(0));
  const Tensor variance = logvar.exp();
  KLGeneratorLoss result;
  result.nll_loss = (rec / variance + logvar).sum() / samples;
  const Tensor divergence = posterior.kl();
  result.kl_loss = divergence.sum() / static_cast<double>(divergence.size(0));
  const Tensor pixel_part = options.details != nullptr ? (pixel / variance).sum() / samples : Tensor();
  const Adversary gan =
      adversary(reconstructions, result.nll_loss, pixel_part, global_step, last_layer, options);
  result.g_loss = gan.g_loss;
  result.d_weight = gan.d_weight;
  result.loss = result.nll_loss + config_.kl_weight * result.kl_loss +
                gan.d_weight * disc_factor_at(global_step) * gan.g_loss;
  set_reconstruction_details(pixel, perceptual, options.details);
  return result;
}

VQLPIPSWithDiscriminatorImpl::VQLPIPSWithDiscriminatorImpl(const VQLPIPSWithDiscriminatorConfig& config,
                                                           LPIPS lpips, NLayerDiscriminator disc)
    : AdversarialLossImpl("VQLPIPSWithDiscriminator", shared_options<Options>(config), std::move(lpips),
                          std::move(disc)),
      config_(config) {
  require_weight("codebook_weight", config.codebook_weight);
  register_networks();
}

VQGeneratorLoss VQLPIPSWithDiscriminatorImpl::generator_loss(const Tensor& codebook_loss,
                                                             const Tensor& inputs,
                                                             const Tensor& reconstructions,
                                                             int64_t global_step, const Tensor& last_layer,
                                                             const GeneratorLossOptions& options) {
  const Tensor pixel = pixel_losses(inputs, reconstructions);
  const Tensor perceptual = perceptual_losses(inputs, reconstructions);
  VQGeneratorLoss result;
  result.nll_loss = (perceptual.defined() ? pixel + config_.perceptual_weight * perceptual : pixel).mean();
  result.codebook_loss = codebook_loss.mean();
  const Tensor pixel_part = options.details != nullptr ? pixel.mean() : Tensor();
  const Adversary gan =
      adversary(reconstructions, result.nll_loss, pixel_part, global_step, last_layer, options);
  result.g_loss = gan.g_loss;
  result.d_weight = gan.d_weight;
  result.loss = result.nll_loss + gan.d_weight * disc_factor_at(global_step) * gan.g_loss +
                config_.codebook_weight * result.codebook_loss;
  set_reconstruction_details(pixel, perceptual, options.details);
  return result;
}

}  // namespace diffusers
