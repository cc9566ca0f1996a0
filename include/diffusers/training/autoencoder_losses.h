#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include <diffusers/core/enum_choice.h>
#include <diffusers/core/enum_names.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/diagonal_gaussian.h>
#include <diffusers/models/discriminator.h>
#include <diffusers/models/lpips.h>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

namespace diffusers {

/// The losses of a discriminator.
enum class DiscLoss {
  kHinge,    ///< "hinge": `hinge_d_loss`
  kVanilla,  ///< "vanilla": `vanilla_d_loss`
};

/// The Python strings of `DiscLoss`.
template <>
struct EnumNames<DiscLoss> {
  static constexpr std::string_view kKey = "disc_loss";  ///< name of the field
  /// Enumerators and their strings.
  static constexpr std::array<std::pair<DiscLoss, std::string_view>, 2> kTable{{
      {DiscLoss::kHinge, "hinge"},
      {DiscLoss::kVanilla, "vanilla"},
  }};
};

/// The loss of one element of a reconstruction.
enum class PixelLoss {
  kL1,  ///< "l1": the absolute difference
  kL2,  ///< "l2": the squared difference
};

/// The Python strings of `PixelLoss`.
template <>
struct EnumNames<PixelLoss> {
  static constexpr std::string_view kKey = "pixel_loss";  ///< name of the field
  /// Enumerators and their strings.
  static constexpr std::array<std::pair<PixelLoss, std::string_view>, 2> kTable{{
      {PixelLoss::kL1, "l1"},
      {PixelLoss::kL2, "l2"},
  }};
};

/// Computes the hinge loss of a discriminator, (mean relu(1 - real) + mean relu(1 + fake)) / 2
/// (taming-transformers `hinge_d_loss`).
/// @param logits_real logits of real images, any shape
/// @param logits_fake logits of reconstructions, any shape
/// @return 0-dim
Tensor hinge_d_loss(const Tensor& logits_real, const Tensor& logits_fake);

/// Computes the loss of the first GANs, (mean softplus(-real) + mean softplus(fake)) / 2 (Goodfellow et al.
/// 2014; taming-transformers `vanilla_d_loss`).
/// @param logits_real logits of real images, any shape
/// @param logits_fake logits of reconstructions, any shape
/// @return 0-dim
Tensor vanilla_d_loss(const Tensor& logits_real, const Tensor& logits_fake);

/// The arguments of latent-diffusion's `LPIPSWithDiscriminator(...)`. `disc_num_layers`, `disc_in_channels`
/// and `use_actnorm` describe the discriminator that is made if none is given; a value other than the default
/// must fit a discriminator that is given.
struct LPIPSWithDiscriminatorConfig {
  int64_t disc_start = 0;          ///< step from which the discriminator counts
  double logvar_init = 0.0;        ///< initial value of the output log variance
  double kl_weight = 1.0;          ///< factor of the KL divergence, 0 or more
  double pixelloss_weight = 1.0;   ///< factor of the pixel loss, 0 or more (latent-diffusion has no effect)
  int64_t disc_num_layers = 3;     ///< `n_layers` of the discriminator
  int64_t disc_in_channels = 3;    ///< `input_nc` of the discriminator
  double disc_factor = 1.0;        ///< factor of both GAN losses, 0 or more. 0 disables the discriminator.
  double disc_weight = 1.0;        ///< factor of the adaptive weight, 0 or more
  double perceptual_weight = 1.0;  ///< factor of LPIPS, 0 or more. 0 needs no LPIPS.
  bool use_actnorm = false;        ///< ActNorm in the discriminator
  bool disc_conditional = false;   ///< the discriminator sees a conditioning image as well
  EnumChoice<DiscLoss> disc_loss = DiscLoss::kHinge;  ///< "hinge" or "vanilla"
  EnumChoice<PixelLoss> pixel_loss = PixelLoss::kL1;  ///< "l1", as latent-diffusion has it, or "l2"
};

/// The arguments of taming-transformers' `VQLPIPSWithDiscriminator(...)`. `disc_num_layers`,
/// `disc_in_channels`, `use_actnorm` and `disc_ndf` describe the discriminator that is made if none is given;
/// a value other than the default must fit a discriminator that is given.
struct VQLPIPSWithDiscriminatorConfig {
  int64_t disc_start = 0;          ///< step from which the discriminator counts
  double codebook_weight = 1.0;    ///< factor of the loss of the codebook, 0 or more
  double pixelloss_weight = 1.0;   ///< factor of the pixel loss, 0 or more (no effect in Python)
  int64_t disc_num_layers = 3;     ///< `n_layers` of the discriminator
  int64_t disc_in_channels = 3;    ///< `input_nc` of the discriminator
  double disc_factor = 1.0;        ///< factor of both GAN losses, 0 or more. 0 disables the discriminator.
  double disc_weight = 1.0;        ///< factor of the adaptive weight, 0 or more
  double perceptual_weight = 1.0;  ///< factor of LPIPS, 0 or more. 0 needs no LPIPS.
  bool use_actnorm = false;        ///< ActNorm in the discriminator
  bool disc_conditional = false;   ///< the discriminator sees a conditioning image as well
  int64_t disc_ndf = 64;           ///< `ndf` of the discriminator
  EnumChoice<DiscLoss> disc_loss = DiscLoss::kHinge;  ///< "hinge" or "vanilla"
  EnumChoice<PixelLoss> pixel_loss = PixelLoss::kL1;  ///< "l1" or "l2"
};

/// The loss of an AutoencoderKL and its terms, each 0-dim.
struct KLGeneratorLoss {
  Tensor loss;      ///< nll_loss + kl_weight kl_loss + d_weight disc_factor g_loss, with its graph
  Tensor nll_loss;  ///< sum of rec / exp(logvar) + logvar over elements, divided by B
  Tensor kl_loss;   ///< mean divergence of the posterior from N(0, I)
  Tensor g_loss;    ///< minus the mean logit of the reconstructions
  Tensor d_weight;  ///< adaptive weight of g_loss, without a graph
};

/// The loss of a VQModel and its terms, each 0-dim.
struct VQGeneratorLoss {
  Tensor loss;           ///< nll_loss + codebook_weight codebook_loss + d_weight disc_factor g_loss
  Tensor nll_loss;       ///< mean of rec
  Tensor codebook_loss;  ///< mean loss of the codebook
  Tensor g_loss;         ///< minus the mean logit of the reconstructions
  Tensor d_weight;       ///< adaptive weight of g_loss, without a graph
};

/// The logged values of a generator's loss, each 0-dim and without a graph. The norms are those of the terms'
/// gradients in the last layer, before their weights.
struct GeneratorDetails {
  Tensor rec_loss;       ///< mean pixel loss
  Tensor p_loss;         ///< mean LPIPS; 0 without LPIPS
  Tensor rec_grad_norm;  ///< of the pixel part of nll_loss
  Tensor p_grad_norm;    ///< of the LPIPS part of nll_loss; 0 without LPIPS
  Tensor nll_grad_norm;  ///< of nll_loss
  Tensor g_grad_norm;    ///< of g_loss; 0 if the discriminator was left out
};

/// Options of `generator_loss` besides the images.
struct GeneratorLossOptions {
  Tensor cond = {};  ///< `[B, C', H, W]`, the conditioning image of a conditional discriminator
  /// Leaves out the discriminator before `disc_start`, where g_loss and d_weight have no effect on the loss.
  /// Both are 0 then, where Python computes them.
  bool skip_idle_discriminator = false;
  GeneratorDetails* details = nullptr;  ///< receives what a log shows
};

class LPIPSWithDiscriminatorImpl;
class VQLPIPSWithDiscriminatorImpl;

/// The part that LPIPSWithDiscriminatorImpl and VQLPIPSWithDiscriminatorImpl share: pixel loss, LPIPS and
/// discriminator.
class AdversarialLossImpl : public torch::nn::Module {
 public:
  /// Computes the loss of the discriminator, disc_factor d_loss(real, fake); 0 before disc_start.
  /// @param inputs images `[B, C, H, W]`
  /// @param reconstructions shape of inputs; no gradient flows to them
  /// @param global_step optimizer steps done before
  /// @param cond conditioning image of a conditional discriminator, `[B, C', H, W]`
  /// @return 0-dim
  /// @throws TensorError if a shape does not fit
  /// @throws ConfigError if there is no discriminator, or naming disc_conditional if `cond` does not fit it
  Tensor discriminator_loss(const Tensor& inputs, const Tensor& reconstructions, int64_t global_step,
                            const Tensor& cond = {});

  /// Computes the pixel loss of each element, times pixelloss_weight.
  /// @param inputs images `[B, C, H, W]`
  /// @param reconstructions shape of inputs
  /// @return shape of inputs
  /// @throws TensorError naming both shapes if they differ
  Tensor pixel_losses(const Tensor& inputs, const Tensor& reconstructions) const;

  /// @param global_step optimizer steps done before
  /// @return disc_factor from disc_start on, else 0
  double disc_factor_at(int64_t global_step) const;

  /// @return the factor of LPIPS
  double perceptual_weight() const { return options_.perceptual_weight; }
  /// @return true if the discriminator sees a conditioning image
  bool disc_conditional() const { return options_.disc_conditional; }
  /// @return true unless disc_factor is 0
  bool has_discriminator() const { return options_.disc_factor > 0; }
  /// @return step from which the discriminator counts
  int64_t disc_start() const { return options_.disc_start; }

  LPIPS perceptual_loss{nullptr};              ///< empty if none was given
  NLayerDiscriminator discriminator{nullptr};  ///< empty if none was given and disc_factor is 0

 private:
  friend class LPIPSWithDiscriminatorImpl;
  friend class VQLPIPSWithDiscriminatorImpl;

  /// The fields that both configs have.
  struct Options {
    int64_t disc_start;
    double pixelloss_weight;
    int64_t disc_num_layers;
    int64_t disc_in_channels;
    double disc_factor;
    double disc_weight;
    double perceptual_weight;
    bool use_actnorm;
    bool disc_conditional;
    int64_t disc_ndf;
    DiscLoss disc_loss;
    PixelLoss pixel_loss;
  };
  /// The GAN part of a generator's loss.
  struct Adversary {
    Tensor g_loss, d_weight;
  };

  /// Checks the fields and keeps the networks.
  AdversarialLossImpl(const char* name, const Options& options, LPIPS lpips, NLayerDiscriminator disc);
  /// Registers the networks as children, after the parameters of the derived class.
  void register_networks();
  /// @return LPIPS of each sample, `[B, 1, 1, 1]`; undefined without perceptual_weight
  Tensor perceptual_losses(const Tensor& inputs, const Tensor& reconstructions) const;
  /// Computes the GAN part and the details.
  /// @param nll_loss the rest of the loss that reaches the last layer
  /// @param pixel_part the part of nll_loss that is the pixel loss
  Adversary adversary(const Tensor& reconstructions, const Tensor& nll_loss, const Tensor& pixel_part,
                      int64_t global_step, const Tensor& last_layer, const GeneratorLossOptions& options);

  Tensor judge(const Tensor& images, const Tensor& cond);

  Options options_;
};

/// The loss of an AutoencoderKL (Rombach et al. 2022; latent-diffusion `LPIPSWithDiscriminator`). Children
/// and parameters have the Python names: `logvar`, `perceptual_loss`, `discriminator`.
class LPIPSWithDiscriminatorImpl : public AdversarialLossImpl {
 public:
  /// @param config the arguments of the loss
  /// @param lpips perceptual distance; may be empty if perceptual_weight is 0
  /// @param disc the discriminator; empty: one is made, unless disc_factor is 0
  /// @throws ConfigError naming the field and its value
  LPIPSWithDiscriminatorImpl(const LPIPSWithDiscriminatorConfig& config, LPIPS lpips,
                             NLayerDiscriminator disc);

  /// Computes the loss of the autoencoder:
  /// nll_loss + kl_weight kl_loss + d_weight disc_factor g_loss, where the last term begins at disc_start,
  /// rec = pixelloss_weight |x - y| + perceptual_weight LPIPS, and
  /// d_weight = clamp(|grad nll_loss| / (|grad g_loss| + 1e-4), 0, 1e4) disc_weight, with the gradients in
  /// the last layer. In eval mode without a graph d_weight is 0.
  /// @param inputs images `[B, C, H, W]` in [-1, 1]
  /// @param reconstructions shape of inputs
  /// @param posterior distribution of the latents
  /// @param global_step optimizer steps done before
  /// @param last_layer weight of the decoder's last layer, `decoder.conv_out.weight`
  /// @param options conditioning image and what a log shows
  /// @return the loss and its terms
  /// @throws TensorError if a shape does not fit, or if the last layer has no gradient in train mode
  /// @throws ConfigError naming disc_conditional if `cond` does not fit it
  KLGeneratorLoss generator_loss(const Tensor& inputs, const Tensor& reconstructions,
                                 const DiagonalGaussianDistribution& posterior, int64_t global_step,
                                 const Tensor& last_layer, const GeneratorLossOptions& options = {});

  /// @return the arguments of the loss
  const LPIPSWithDiscriminatorConfig& config() const { return config_; }

  Tensor logvar;  ///< 0-dim, the learned logarithm of the variance of rec

 private:
  LPIPSWithDiscriminatorConfig config_;
};

/// The loss of a VQModel (Esser et al. 2021; taming-transformers `VQLPIPSWithDiscriminator`).
class VQLPIPSWithDiscriminatorImpl : public AdversarialLossImpl {
 public:
  /// @param config the arguments of the loss
  /// @param lpips perceptual distance; may be empty if perceptual_weight is 0
  /// @param disc the discriminator; empty: one is made, unless disc_factor is 0
  /// @throws ConfigError naming the field and its value
  VQLPIPSWithDiscriminatorImpl(const VQLPIPSWithDiscriminatorConfig& config, LPIPS lpips,
                               NLayerDiscriminator disc);

  /// Computes the loss of the autoencoder:
  /// nll_loss + codebook_weight codebook_loss + d_weight disc_factor g_loss. The terms are those of
  /// LPIPSWithDiscriminatorImpl, but nll_loss is the mean of rec.
  /// @param codebook_loss loss of the codebook, any shape; its mean is taken
  /// @param inputs images `[B, C, H, W]` in [-1, 1]
  /// @param reconstructions shape of inputs
  /// @param global_step optimizer steps done before
  /// @param last_layer weight of the decoder's last layer, `decoder.conv_out.weight`
  /// @param options conditioning image and what a log shows
  /// @return the loss and its terms
  /// @throws TensorError if a shape does not fit, or if the last layer has no gradient in train mode
  /// @throws ConfigError naming disc_conditional if `cond` does not fit it
  VQGeneratorLoss generator_loss(const Tensor& codebook_loss, const Tensor& inputs,
                                 const Tensor& reconstructions, int64_t global_step, const Tensor& last_layer,
                                 const GeneratorLossOptions& options = {});

  /// @return the arguments of the loss
  const VQLPIPSWithDiscriminatorConfig& config() const { return config_; }

 private:
  VQLPIPSWithDiscriminatorConfig config_;
};

/// A handle of an `LPIPSWithDiscriminatorImpl`:
/// `LPIPSWithDiscriminator loss({.disc_start = 50001, .kl_weight = 1e-6}, lpips, disc);`
class LPIPSWithDiscriminator : public torch::nn::ModuleHolder<LPIPSWithDiscriminatorImpl> {
 public:
  /// Makes an empty holder.
  LPIPSWithDiscriminator(std::nullptr_t) : ModuleHolder(nullptr) {}  // NOLINT(google-explicit-constructor)
  /// Makes a loss. The networks are shared, not copied.
  /// @param config the arguments of the loss
  /// @param lpips perceptual distance; may be empty if perceptual_weight is 0
  /// @param disc the discriminator; empty: one is made, unless disc_factor is 0
  /// @throws ConfigError naming the field and its value
  explicit LPIPSWithDiscriminator(const LPIPSWithDiscriminatorConfig& config, LPIPS lpips = nullptr,
                                  NLayerDiscriminator disc = nullptr)
      : ModuleHolder(
            std::make_shared<LPIPSWithDiscriminatorImpl>(config, std::move(lpips), std::move(disc))) {}
};

/// A handle of a `VQLPIPSWithDiscriminatorImpl`.
class VQLPIPSWithDiscriminator : public torch::nn::ModuleHolder<VQLPIPSWithDiscriminatorImpl> {
 public:
  /// Makes an empty holder.
  VQLPIPSWithDiscriminator(std::nullptr_t) : ModuleHolder(nullptr) {}  // NOLINT(google-explicit-constructor)
  /// Makes a loss. The networks are shared, not copied.
  /// @param config the arguments of the loss
  /// @param lpips perceptual distance; may be empty if perceptual_weight is 0
  /// @param disc the discriminator; empty: one is made, unless disc_factor is 0
  /// @throws ConfigError naming the field and its value
  explicit VQLPIPSWithDiscriminator(const VQLPIPSWithDiscriminatorConfig& config, LPIPS lpips = nullptr,
                                    NLayerDiscriminator disc = nullptr)
      : ModuleHolder(
            std::make_shared<VQLPIPSWithDiscriminatorImpl>(config, std::move(lpips), std::move(disc))) {}
};

}  // namespace diffusers
