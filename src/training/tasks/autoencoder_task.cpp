#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include <diffusers/io/files.h>
#include <diffusers/training/autoencoder_task.h>

#include <ATen/ATen.h>
#include <torch/autograd.h>
#include <torch/nn/module.h>

#include "core/json.h"
#include "core/require.h"
#include "models/layers/joined_batch.h"
#include "training/tasks/task_inputs.h"

namespace diffusers {
namespace {

constexpr std::size_t kDiscriminatorUpdate = 1;
/// Squared distance of black and white.
constexpr double kSquaredPeak = 4.0;
/// Bounds the PSNR of an exact reconstruction, at 106 dB.
constexpr double kLeastSquaredError = 1e-10;

/// The log variance as a separate module, so that it is saved without the networks of the loss.
struct OutputLogvarImpl : torch::nn::Module {
  explicit OutputLogvarImpl(const Tensor& logvar) : torch::nn::Module("OutputLogVariance") {
    register_parameter("logvar", logvar);
  }
};

/// Moves a module; integers keep their dtype.
void fit_module(torch::nn::Module& module, at::Device device, at::ScalarType dtype) {
  const auto fit = [&](const Tensor& tensor) {
    const at::ScalarType wanted = at::isFloatingType(tensor.scalar_type()) ? dtype : tensor.scalar_type();
    if (tensor.device() != device || tensor.scalar_type() != wanted)
      tensor.set_data(tensor.detach().to(device, wanted));
  };
  for (const Tensor& parameter : module.parameters()) fit(parameter);
  for (const Tensor& buffer : module.buffers()) fit(buffer);
}

/// Norm of the gradient of a term, a mean over the batch, in what it was computed from; 0 if nothing there
/// requires a gradient.
Tensor gradient_norm(const Tensor& term, const Tensor& source) {
  if (!term.requires_grad() || !source.requires_grad()) return at::zeros({}, term.options());
  const auto batch = JoinedBatch::current();
  const Tensor norm = torch::autograd::grad({batch ? term * batch->share() : term}, {source}, {},
                                            /*retain_graph=*/true)
                          .front()
                          .norm();
  return batch ? batch->sum(norm.square()).sqrt() : norm;
}

Tensor psnr(const Tensor& images, const Tensor& reconstructions) {
  const Tensor errors = (images - reconstructions.clamp(-1, 1)).square().flatten(1).mean(1);
  return 10 * (kSquaredPeak / errors.clamp_min(kLeastSquaredError)).log10();
}

template <class Config>
Json common_loss_json(const Config& config) {
  return {{"disc_start", config.disc_start},
          {"pixelloss_weight", config.pixelloss_weight},
          {"disc_factor", config.disc_factor},
          {"disc_weight", config.disc_weight},
          {"perceptual_weight", config.perceptual_weight},
          {"disc_loss", std::string(config.disc_loss.name())},
          {"pixel_loss", std::string(config.pixel_loss.name())}};
}

}  // namespace

AutoencoderTask::AutoencoderTask(AutoencoderKL vae, LPIPSWithDiscriminator loss,
                                 const AutoencoderTaskOptions& options, std::string name)
    : vae_(std::move(vae)), loss_(std::move(loss)), options_(options) {
  require<ConfigError>(!vae_.is_empty() && !loss_.is_empty(),
                       "AutoencoderTask: the model or the loss is an empty holder (nullptr)");
  require_plain_basename(name, "the name of a model");
  const AutoencoderKLConfig& config = vae_->config();
  check_model(config.in_channels, config.out_channels, config.block_out_channels.size());
  trained_.push_back({std::move(name), make_saved_module(vae_)});
  loss_->logvar.requires_grad_(options_.learn_logvar);
  if (options_.learn_logvar)
    trained_.push_back({"logvar", make_saved_module(std::make_shared<OutputLogvarImpl>(loss_->logvar)),
                        /*is_averaged=*/false});
  add_discriminator();
}

AutoencoderTask::AutoencoderTask(VQModel vq, VQLPIPSWithDiscriminator loss,
                                 const AutoencoderTaskOptions& options, std::string name)
    : vq_(std::move(vq)), vq_loss_(std::move(loss)), options_(options) {
  require<ConfigError>(!vq_.is_empty() && !vq_loss_.is_empty(),
                       "AutoencoderTask: the model or the loss is an empty holder (nullptr)");
  require_plain_basename(name, "the name of a model");
  require<ConfigError>(options_.learn_logvar,
                       "learn_logvar is false, but has an effect only for an AutoencoderKL; leave it at its "
                       "default, true");
  const VQModelConfig& config = vq_->config();
  check_model(config.in_channels, config.out_channels, config.block_out_channels.size());
  trained_.push_back({std::move(name), make_saved_module(vq_)});
  add_discriminator();
}

AdversarialLossImpl& AutoencoderTask::common() const {
  return loss_.is_empty() ? static_cast<AdversarialLossImpl&>(*vq_loss_) : *loss_;
}

Tensor AutoencoderTask::last_layer() const {
  return trained_.front().module->module().named_parameters()["decoder.conv_out.weight"];
}

void AutoencoderTask::check_model(int64_t in_channels, int64_t out_channels, std::size_t blocks) {
  require<ConfigError>(
      in_channels == out_channels,
      "the autoencoder has in_channels {} and out_channels {}, expected equal numbers, since "
      "it is trained to reconstruct its input",
      in_channels, out_channels);
  const AdversarialLossImpl& loss = common();
  require<ConfigError>(
      !loss.disc_conditional(),
      "disc_conditional is true, but the training of an autoencoder has no conditioning image");
  if (loss.has_discriminator())
    require<ConfigError>(loss.discriminator->config().input_nc == out_channels,
                         "the discriminator has input_nc {}, expected {}, the autoencoder's out_channels",
                         loss.discriminator->config().input_nc, out_channels);
  const LPIPS& lpips = loss.perceptual_loss;
  require<ConfigError>(lpips.is_empty() || lpips->network() || out_channels == 1 || out_channels == 3,
                       "the autoencoder has out_channels {}, but LPIPS takes images of 1 or 3 channels",
                       out_channels);
  channels_ = in_channels;
  factor_ = int64_t{1} << std::min<std::size_t>(blocks - 1, 32);
}

void AutoencoderTask::add_discriminator() {
  if (common().has_discriminator())
    trained_.push_back({"discriminator", make_saved_module(common().discriminator), /*is_averaged=*/false});
}

std::vector<NamedModule> AutoencoderTask::frozen() const {
  const LPIPS& lpips = common().perceptual_loss;
  if (lpips.is_empty()) return {};
  return {{"lpips", make_saved_module(lpips)}};
}

std::vector<Update> AutoencoderTask::updates(const TrainingConfig& /*config*/) const {
  Update generator{.name = "generator"};
  for (const NamedModule& named : trained_)
    if (named.name != "discriminator") generator.modules.push_back(named.name);
  if (!common().has_discriminator()) return {generator};
  return {generator,
          {.name = "discriminator", .modules = {"discriminator"}, .start_step = common().disc_start()}};
}

void AutoencoderTask::configure(const TrainingConfig& config) {
  refuse_flags(config,
               {"snr_gamma", "noise_offset", "input_perturbation", "loss_type", "huber_schedule", "huber_c",
                "logit_mean", "logit_std", "mode_scale", "timestep_bias_strategy", "timestep_bias_multiplier",
                "timestep_bias_begin", "timestep_bias_end", "timestep_bias_portion"},
               "AutoencoderTask");
  require_divisible_batches(batch_split(), config.cpu_data_parallel);
  if (config.gradient_checkpointing) trained_.front().module->enable_gradient_checkpointing();
  const Tensor weight = last_layer();
  fit_module(common(), weight.device(), weight.scalar_type());
  resolution_ = config.resolution;
  accumulated_batches_ = config.gradient_accumulation_steps;
}

BatchSplit AutoencoderTask::batch_split() const {
  return {.obstacle =
              "AutoencoderTask needs whole batches for the statistics of the discriminator and its adaptive "
              "weight"};
}

std::string AutoencoderTask::process_obstacle() const {
  if (!common().has_discriminator() || accumulated_batches_ == 1) return {};
  return fmt::format(
      "gradient_accumulation_steps is {}, and the discriminator and the adaptive weight need the whole batch "
      "of a step; set it to 1 and train_batch_size to a larger number",
      accumulated_batches_);
}

void AutoencoderTask::check_batch(const Batch& batch) {
  const Tensor& images = images_of(batch, resolution_);
  require<TensorError>(images.size(1) == channels_ && images.size(2) % factor_ == 0 &&
                           images.size(3) % factor_ == 0 && images.size(2) > 0 && images.size(3) > 0,
                       "the dataset gives images {}, expected [B, {}, H, W] with H and W multiples of {} for "
                       "this autoencoder",
                       describe(images), channels_, factor_);
  if (!common().has_discriminator()) return;
  const int64_t least = common().discriminator->min_image_size();
  require<TensorError>(std::min(images.size(2), images.size(3)) >= least,
                       "the dataset gives images {}, expected a height and width of {} or more for a "
                       "discriminator of n_layers {}",
                       describe(images), least, common().discriminator->config().n_layers);
}

void AutoencoderTask::begin_step(const StepContext& context) {
  context_ = context;
  for (StepRows& rows : rows_) rows.begin_step(context);
}

/// As VQModel::decode, without a second search for the nearest codes.
Tensor AutoencoderTask::decode_quantized(const Tensor& quantized) const {
  const bool is_spatial = vq_->config().norm_type == VaeNormType::kSpatial;
  return vq_->decoder->forward(vq_->post_quant_conv->forward(quantized), is_spatial ? quantized : Tensor());
}

AutoencoderTask::Reconstruction AutoencoderTask::reconstruct(const Tensor& images, std::size_t update) {
  if (vae_.is_empty()) return reconstruct_mode(images);
  Reconstruction made;
  made.posterior = vae_->encode(images).latent_dist;
  const Tensor& mean = made.posterior->mean;
  const int64_t first = rows_[update].next(mean, [&](at::IntArrayRef shape) {
    noise_[update] = at::randn(shape, context_.generator, mean.options().requires_grad(false));
  });
  const Tensor latents = mean + made.posterior->std * noise_[update].narrow(0, first, mean.size(0));
  made.images = vae_->decode(latents).sample;
  return made;
}

AutoencoderTask::Reconstruction AutoencoderTask::reconstruct_mode(const Tensor& images) const {
  Reconstruction made;
  if (!vae_.is_empty()) {
    made.posterior = vae_->encode(images).latent_dist;
    made.images = vae_->decode(made.posterior->mode()).sample;
    return made;
  }
  made.latents = vq_->encode(images).latents;
  const VectorQuantizerOutput output = vq_->quantize->forward(made.latents);
  made.codebook_loss = output.loss;
  made.indices = output.indices;
  made.images = decode_quantized(output.quantized);
  return made;
}

void AutoencoderTask::add_codebook_values(const Tensor& indices, std::vector<NamedValue>& values) const {
  const int64_t codes = vq_->config().num_vq_embeddings;
  const Tensor flat = indices.flatten();
  // bincount would make a device's host wait for the largest index.
  Tensor counts = at::zeros({codes}, flat.options().dtype(at::kFloat))
                      .scatter_add_(0, flat, at::ones_like(flat, at::kFloat));
  Tensor shares = counts / static_cast<double>(std::max<int64_t>(1, flat.numel()));
  if (const auto batch = JoinedBatch::current()) {
    counts = batch->sum(counts);
    shares = counts / counts.sum().clamp_min(1);
  }
  values.push_back({"perplexity", (-at::xlogy(shares, shares).sum()).exp()});
  values.push_back({"codebook_usage", (counts > 0).to(at::kFloat).mean()});
}

StepLoss AutoencoderTask::kl_loss(const Tensor& images, const Reconstruction& made,
                                  const GeneratorLossOptions& options) {
  const KLGeneratorLoss terms =
      loss_->generator_loss(images, made.images, *made.posterior, context_.step, last_layer(), options);
  return {terms.loss,
          {{"nll_loss", terms.nll_loss},
           {"kl_loss", terms.kl_loss},
           {"g_loss", terms.g_loss},
           {"d_weight", terms.d_weight},
           {"logvar", loss_->logvar},
           {"kl_grad_norm", gradient_norm(terms.kl_loss, made.posterior->parameters)}}};
}

StepLoss AutoencoderTask::vq_loss(const Tensor& images, const Reconstruction& made,
                                  const GeneratorLossOptions& options) {
  const VQGeneratorLoss terms =
      vq_loss_->generator_loss(made.codebook_loss, images, made.images, context_.step, last_layer(), options);
  StepLoss result{terms.loss,
                  {{"nll_loss", terms.nll_loss},
                   {"codebook_loss", terms.codebook_loss},
                   {"g_loss", terms.g_loss},
                   {"d_weight", terms.d_weight},
                   {"codebook_grad_norm", gradient_norm(terms.codebook_loss, made.latents)}}};
  add_codebook_values(made.indices, result.values);
  return result;
}

StepLoss AutoencoderTask::generator_loss(const Tensor& images) {
  const Reconstruction made = reconstruct(images, 0);
  GeneratorDetails details;
  const GeneratorLossOptions options{.skip_idle_discriminator = true, .details = &details};
  StepLoss result = vae_.is_empty() ? vq_loss(images, made, options) : kl_loss(images, made, options);
  for (const auto& [name, value] :
       {std::pair("rec_loss", details.rec_loss), std::pair("p_loss", details.p_loss),
        std::pair("rec_grad_norm", details.rec_grad_norm), std::pair("p_grad_norm", details.p_grad_norm),
        std::pair("nll_grad_norm", details.nll_grad_norm), std::pair("g_grad_norm", details.g_grad_norm)})
    result.values.push_back({name, value});
  result.values.push_back({"psnr", psnr(images, made.images.detach())});
  return result;
}

StepLoss AutoencoderTask::loss(const Batch& batch, std::size_t update) {
  const Tensor& images = images_of(batch, resolution_);
  if (update != kDiscriminatorUpdate) return generator_loss(images);
  const Tensor reconstructions = [&] {
    const at::NoGradGuard no_grad;
    return reconstruct(images, update).images;
  }();
  return {common().discriminator_loss(images, reconstructions, context_.step)};
}

StepLoss AutoencoderTask::validate(const Batch& batch) const {
  const Tensor& images = images_of(batch, resolution_);
  const AdversarialLossImpl& loss = common();
  const Reconstruction made = reconstruct_mode(images);
  const Tensor rec_loss = loss.pixel_losses(images, made.images).flatten(1).mean(1);
  StepLoss result{rec_loss, {{"rec_loss", rec_loss}, {"psnr", psnr(images, made.images)}}};
  if (!loss.perceptual_loss.is_empty()) {
    const Tensor distances = loss.perceptual_loss(images, made.images).flatten();
    result.values.push_back({"lpips", distances});
    result.loss = rec_loss + loss.perceptual_weight() * distances;
  }
  if (made.posterior) {
    result.values.push_back({"kl_loss", made.posterior->kl()});
  } else {
    result.values.push_back({"codebook_loss", made.codebook_loss});
    add_codebook_values(made.indices, result.values);
  }
  return result;
}

StepLoss AutoencoderTask::validate(const Batch& batch, const Tensor& /*positions*/,
                                   const Generator& /*generator*/) {
  return validate(batch);
}

Tensor AutoencoderTask::validation_loss(const Batch& batch, const Tensor& /*positions*/,
                                        const Generator& /*generator*/) {
  return validate(batch).loss;
}

void AutoencoderTask::save_extras(const std::filesystem::path& /*output_dir*/) const {}

std::string AutoencoderTask::config_json() const {
  Json loss;
  if (vae_.is_empty()) {
    loss = common_loss_json(vq_loss_->config());
    loss["codebook_weight"] = vq_loss_->config().codebook_weight;
  } else {
    loss = common_loss_json(loss_->config());
    loss["kl_weight"] = loss_->config().kl_weight;
    loss["logvar_init"] = loss_->config().logvar_init;
  }
  const LPIPS& lpips = common().perceptual_loss;
  if (lpips.is_empty()) {
    loss["lpips"] = Json();
  } else {
    loss["lpips"] = lpips->network() ? lpips->network()->name() : std::string(lpips->config().net.name());
  }
  return dump_json({{"_class_name", "AutoencoderTask"},
                    {"model", vae_.is_empty() ? "vq" : "kl"},
                    {"learn_logvar", options_.learn_logvar},
                    {"loss", loss}});
}

}  // namespace diffusers
