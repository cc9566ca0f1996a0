#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <diffusers/io/files.h>
#include <diffusers/training/latent_encoder.h>

#include <ATen/ATen.h>

#include "core/freed_memory.h"
#include "core/host_copy.h"
#include "core/json.h"
#include "core/require.h"
#include "io/sha256.h"
#include "models/layers/autocast_scope.h"
#include "models/module_modes.h"

namespace diffusers {
namespace {

template <class Model>
Model checked_autoencoder(Model model) {
  require<ConfigError>(!model.is_empty(),
                       "LatentEncoder: the autoencoder is an empty holder (nullptr); expected a constructed "
                       "{}",
                       Model::ContainedType::class_name());
  return model;
}

int64_t factor_of_blocks(const std::vector<std::string>& blocks) { return int64_t{1} << (blocks.size() - 1); }

DeviceTable channel_table(const std::vector<double>& values) {
  if (values.empty()) return {};
  return DeviceTable(at::tensor(values, at::kDouble).view({1, -1, 1, 1}));
}

Tensor kl_moments(const AutoencoderKLImpl& vae, const Tensor& images) {
  return vae.encode(images).latent_dist.parameters;
}
Tensor vq_latents(const VQModelImpl& vqvae, const Tensor& images) { return vqvae.encode(images).latents; }
Tensor kl_images(const AutoencoderKLImpl& vae, const Tensor& latents) { return vae.decode(latents).sample; }
Tensor vq_images(const VQModelImpl& vqvae, const Tensor& latents) { return vqvae.decode(latents).sample; }

}  // namespace

LatentDistribution LatentDistribution::slice(int64_t begin, int64_t end) const {
  return {mean.slice(0, begin, end), logvar.defined() ? logvar.slice(0, begin, end) : logvar};
}

LatentEncoder::LatentEncoder(AutoencoderKL vae, const LatentEncoderOptions& options)
    : model_(checked_autoencoder(std::move(vae))), options_(options) {
  const AutoencoderKLConfig& config = std::get<AutoencoderKL>(model_)->config();
  facts_ = {.in_channels = config.in_channels,
            .latent_channels = config.latent_channels,
            .factor = factor_of_blocks(config.down_block_types),
            .scaling_factor = config.scaling_factor,
            .shift_factor = config.shift_factor,
            .force_upcast = config.force_upcast};
  require<ConfigError>(
      config.latents_mean.empty() == config.latents_std.empty(),
      "the autoencoder's config has {} values in latents_mean and {} in latents_std; expected "
      "both or none",
      config.latents_mean.size(), config.latents_std.size());
  latents_mean_ = channel_table(config.latents_mean);
  latents_std_ = channel_table(config.latents_std);
  require<ConfigError>(
      !options_.scale_by_std || (!config.shift_factor && config.latents_mean.empty()),
      "scale_by_std is true, but the autoencoder's config has a shift_factor or latents_mean, "
      "which already normalise the latents; set scale_by_std to false");
  take_module();
}

LatentEncoder::LatentEncoder(VQModel vqvae, const LatentEncoderOptions& options)
    : model_(checked_autoencoder(std::move(vqvae))), options_(options) {
  const VQModelConfig& config = std::get<VQModel>(model_)->config();
  facts_ = {.in_channels = config.in_channels,
            .latent_channels = config.vq_embed_dim.value_or(config.latent_channels),
            .factor = factor_of_blocks(config.down_block_types),
            .scaling_factor = config.scaling_factor,
            .force_upcast = config.force_upcast};
  take_module();
}

void LatentEncoder::take_module() {
  const std::vector<Tensor> parameters = module().parameters();
  const at::ScalarType dtype = parameters.front().scalar_type();
  if (facts_.force_upcast && (dtype == at::kHalf || dtype == at::kBFloat16)) module().to(at::kFloat);
}

torch::nn::Module& LatentEncoder::module() const {
  return std::visit([](const auto& model) -> torch::nn::Module& { return *model.ptr(); }, model_);
}

std::string LatentEncoder::config_json() const {
  return std::visit([](const auto& model) { return model.ptr()->config_json(); }, model_);
}

int64_t LatentEncoder::in_channels() const { return facts_.in_channels; }
int64_t LatentEncoder::latent_channels() const { return facts_.latent_channels; }
int64_t LatentEncoder::downsampling_factor() const { return facts_.factor; }
at::Device LatentEncoder::device() const { return module().parameters().front().device(); }
bool LatentEncoder::has_posterior() const { return std::holds_alternative<AutoencoderKL>(model_); }

AutoencoderKL LatentEncoder::vae() const {
  return has_posterior() ? std::get<AutoencoderKL>(model_) : AutoencoderKL(nullptr);
}

VQModel LatentEncoder::vqvae() const {
  return has_posterior() ? VQModel(nullptr) : std::get<VQModel>(model_);
}

NamedModule LatentEncoder::frozen_module(std::string name) const {
  return {std::move(name), std::visit([](const auto& model) { return make_saved_module(model); }, model_),
          /*is_averaged=*/false};
}

void LatentEncoder::check_images(const Tensor& images, std::string_view what) const {
  require<TensorError>(
      images.defined() && images.dim() == 4 && at::isFloatingType(images.scalar_type()) &&
          images.size(1) == facts_.in_channels,
      "{} are {}, expected a floating tensor [B, {}, H, W]: the autoencoder's in_channels is {}", what,
      describe(images), facts_.in_channels, facts_.in_channels);
  const auto fits = [&](int64_t side) { return side > 0 && side % facts_.factor == 0; };
  require<TensorError>(
      fits(images.size(2)) && fits(images.size(3)),
      "{} are {}, but the autoencoder halves an image {} times; expected a height and a width "
      "that are multiples of {}; resize or crop the images",
      what, describe(images), static_cast<int64_t>(std::log2(facts_.factor)), facts_.factor);
}

void LatentEncoder::check_denoiser(const DenoiserInfo& info, int64_t extra_channels,
                                   std::string_view name) const {
  const int64_t latents = facts_.latent_channels;
  require<ConfigError>(!info.in_channels || *info.in_channels == latents + extra_channels,
                       "in_channels of the {} is {}, but it receives {} channels: {} of the autoencoder's "
                       "latents and {} of its "
                       "conditioning; expected in_channels {}",
                       name, info.in_channels.value_or(0), latents + extra_channels, latents, extra_channels,
                       latents + extra_channels);
  require<ConfigError>(
      !info.out_channels || *info.out_channels == latents || *info.out_channels == 2 * latents,
      "out_channels of the {} is {}, but the autoencoder's latents have {} channels; expected out_channels "
      "{} "
      "({} with a learned variance)",
      name, info.out_channels.value_or(0), latents, latents, 2 * latents);
}

Tensor LatentEncoder::run(const Tensor& input, Tensor (*kl)(const AutoencoderKLImpl&, const Tensor&),
                          Tensor (*vq)(const VQModelImpl&, const Tensor&)) const {
  const at::NoGradGuard no_grad;
  std::optional<EvalGuard> eval;
  if (module().is_training()) eval.emplace(module());
  std::optional<AutocastScope> full_precision;
  AutocastState autocast = AutocastState::current(input.device().type());
  if (facts_.force_upcast && autocast.enabled) {
    autocast.enabled = false;
    full_precision.emplace(autocast);
  }
  const Tensor first_weight = has_posterior() ? std::get<AutoencoderKL>(model_)->encoder->conv_in->weight
                                              : std::get<VQModel>(model_)->encoder->conv_in->weight;
  if (input.is_cpu())
    make_room_for_blocks(input.numel() / input.size(1) * first_weight.size(0) * first_weight.element_size());
  if (has_posterior()) {
    const AutoencoderKLImpl& vae = *std::get<AutoencoderKL>(model_).ptr();
    return kl(vae, input.to(vae.encoder->conv_in->weight.scalar_type())).to(input.scalar_type());
  }
  const VQModelImpl& vqvae = *std::get<VQModel>(model_).ptr();
  return vq(vqvae, input.to(vqvae.encoder->conv_in->weight.scalar_type())).to(input.scalar_type());
}

LatentDistribution LatentEncoder::encode_distribution(const Tensor& images) const {
  check_images(images);
  const Tensor encoded = run(images.detach(), kl_moments, vq_latents);
  if (!has_posterior()) return {encoded};
  const DiagonalGaussianDistribution posterior(encoded);
  return {posterior.mean, posterior.logvar};
}

Tensor LatentEncoder::draw(const LatentDistribution& distribution, const Tensor& noise) const {
  const auto& [mean, logvar] = distribution;
  require<TensorError>(mean.defined() && mean.dim() == 4 && mean.size(1) == facts_.latent_channels,
                       "the mean of the latents is {}, expected [B, {}, h, w]", describe(mean),
                       facts_.latent_channels);
  if (!logvar.defined()) return mean;
  require<TensorError>(noise.defined() && noise.sizes() == mean.sizes(),
                       "the posterior noise is {}, but the mean of the latents is {}; expected equal shapes",
                       describe(noise), describe(mean));
  return mean + at::exp(0.5 * logvar) * noise;
}

void LatentEncoder::require_scale() const {
  require<Error>(!needs_scale(),
                 "scale_by_std is true, but the scaling factor was not measured; call measure_scale with the "
                 "first batch");
}

Tensor LatentEncoder::scaled(const Tensor& latents) const {
  require_scale();
  if (scale_.defined()) return latents * scale_.to(latents.scalar_type());
  if (latents_mean_.host().defined()) {
    const Tensor mean = latents_mean_.on(latents.device(), latents.scalar_type());
    const Tensor std = latents_std_.on(latents.device(), latents.scalar_type());
    return (latents - mean) * facts_.scaling_factor / std;
  }
  if (facts_.shift_factor) return (latents - *facts_.shift_factor) * facts_.scaling_factor;
  return latents * facts_.scaling_factor;
}

Tensor LatentEncoder::sample(const LatentDistribution& distribution, const Tensor& noise) const {
  const at::NoGradGuard no_grad;
  return scaled(draw(distribution, noise));
}

Tensor LatentEncoder::mode(const LatentDistribution& distribution) const {
  const at::NoGradGuard no_grad;
  return scaled(draw({distribution.mean}, {}));
}

Tensor LatentEncoder::encode(const Tensor& images, const std::optional<Generator>& generator) const {
  const LatentDistribution distribution = encode_distribution(images);
  Tensor noise;
  if (distribution.logvar.defined())
    noise = at::randn(distribution.mean.sizes(), generator, distribution.mean.options());
  return sample(distribution, noise);
}

Tensor LatentEncoder::decode(const Tensor& latents) const {
  require<TensorError>(latents.defined() && latents.dim() == 4 && at::isFloatingType(latents.scalar_type()) &&
                           latents.size(1) == facts_.latent_channels,
                       "latents are {}, expected a floating tensor [B, {}, h, w]", describe(latents),
                       facts_.latent_channels);
  require_scale();
  const at::NoGradGuard no_grad;
  Tensor z = latents.detach();
  if (scale_.defined()) {
    z = z / scale_.to(z.scalar_type());
  } else if (latents_mean_.host().defined()) {
    z = z * latents_std_.on(z.device(), z.scalar_type()) / facts_.scaling_factor +
        latents_mean_.on(z.device(), z.scalar_type());
  } else {
    z = z / facts_.scaling_factor;
    if (facts_.shift_factor) z = z + *facts_.shift_factor;
  }
  return run(z, kl_images, vq_images);
}

void LatentEncoder::measure_scale(const LatentDistribution& distribution, const Tensor& noise) {
  require<ConfigError>(options_.scale_by_std, "scale_by_std is false, but a scale is to be measured");
  const at::NoGradGuard no_grad;
  scale_ = draw(distribution, noise).flatten().std().reciprocal();
}

void LatentEncoder::set_measured_scale(const Tensor& scale) {
  require<ConfigError>(options_.scale_by_std,
                       "a measured scaling factor is to be restored, but scale_by_std is false");
  require<TensorError>(scale.defined() && scale.numel() == 1 && at::isFloatingType(scale.scalar_type()),
                       "the measured scaling factor is {}, expected one floating number", describe(scale));
  scale_ = scale.detach().reshape({}).to(module().parameters().front().device());
}

std::string LatentEncoder::fingerprint() const {
  Sha256 hash;
  hash.update(config_json());
  for (const auto& [name, tensor] : host_copy(state_dict(std::as_const(module())))) {
    const Tensor bytes = tensor.contiguous();
    hash.update(name + " " + describe(bytes) + "\n");
    hash.update({static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes()});
  }
  return hash.hex_digest();
}

void LatentEncoder::save_pretrained(const std::filesystem::path& folder) const {
  create_folders(folder);
  Json config = parse_json(config_json(), "config_json() of the autoencoder");
  if (scale_.defined()) config["scaling_factor"] = scale_.item<double>();
  detail::module_snapshot(module(), dump_json(config), detail::SavedLayout{})(folder);
}

}  // namespace diffusers
