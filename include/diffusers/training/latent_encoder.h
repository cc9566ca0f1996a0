#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/autoencoder_kl.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/models/vq_model.h>
#include <diffusers/schedulers/device_table.h>
#include <diffusers/training/saved_module.h>

namespace diffusers {

/// Options of a LatentEncoder.
struct LatentEncoderOptions {
  /// Replaces the config's `scaling_factor` by 1 / std of the latents of the first batch of a training
  /// (`scale_by_std` of latent-diffusion); see `LatentEncoder::measure_scale`.
  bool scale_by_std = false;
};

/// The distribution of the latents of images, not scaled.
struct LatentDistribution {
  Tensor mean;         ///< `[B, C, h, w]`, floating
  Tensor logvar = {};  ///< shape of mean, clamped to [-30, 20]; undefined for a VQModel, which has no noise

  /// Takes rows.
  /// @param begin first row
  /// @param end one behind the last row
  /// @return views of the rows
  LatentDistribution slice(int64_t begin, int64_t end) const;
};

/// A frozen autoencoder that turns images into the latents that a diffusion model is trained on, and back. It
/// runs in eval mode without gradients. It draws no random numbers itself:
/// @code
/// LatentEncoder encoder(vae);
/// const LatentDistribution posterior = encoder.encode_distribution(batch.images);
/// const Tensor noise = at::randn(posterior.mean.sizes(), generator, posterior.mean.options());
/// const Tensor x0 = encoder.sample(posterior, noise);
/// @endcode
/// A task draws the noise for all samples of a step at once with `StepRows::next(posterior.mean, draw)`.
///
/// Latents are scaled as in diffusers: z * scaling_factor; with a shift_factor (z - shift_factor) *
/// scaling_factor; with latents_mean and latents_std (z - latents_mean) * scaling_factor / latents_std.
///
/// If the config has `force_upcast`, the autoencoder runs in float32 without autocast: half precision weights
/// are converted in place, as in Python's `vae.to(torch.float32)`. Without it, the autoencoder runs in its
/// own dtype, under the autocast of the caller.
class LatentEncoder {
 public:
  // NOLINTBEGIN(google-explicit-constructor): an autoencoder stands for its encoder.
  /// Makes an encoder of an AutoencoderKL.
  /// @param vae is shared, not copied
  /// @param options see LatentEncoderOptions
  /// @throws ConfigError for an empty holder; for `scale_by_std` with shift_factor, latents_mean or
  ///   latents_std
  LatentEncoder(AutoencoderKL vae, const LatentEncoderOptions& options = {});
  /// Makes an encoder of a VQModel, whose latents are those before the quantization.
  /// @param vqvae is shared, not copied
  /// @param options see LatentEncoderOptions
  /// @throws ConfigError for an empty holder
  LatentEncoder(VQModel vqvae, const LatentEncoderOptions& options = {});
  // NOLINTEND(google-explicit-constructor)

  /// @return the options as given
  const LatentEncoderOptions& options() const { return options_; }
  /// @return channels of the images
  int64_t in_channels() const;
  /// @return channels of the latents
  int64_t latent_channels() const;
  /// @return side of an image over that of its latents, 2^(blocks - 1)
  int64_t downsampling_factor() const;
  /// @return device of the autoencoder
  at::Device device() const;
  /// @return true if the latents are drawn from a normal distribution (AutoencoderKL), false if they are
  /// fixed
  bool has_posterior() const;
  /// @return the AutoencoderKL; an empty holder if this is a VQModel
  AutoencoderKL vae() const;
  /// @return the VQModel; an empty holder if this is an AutoencoderKL
  VQModel vqvae() const;
  /// Makes the autoencoder one of a task's `Task::frozen()` modules.
  /// @param name of the module
  /// @return the autoencoder, shared
  NamedModule frozen_module(std::string name = "vae") const;

  /// Checks images by their shape and dtype; reads no values.
  /// @param images `[B, in_channels, H, W]`, floating, H and W multiples of `downsampling_factor()`
  /// @param what names them in the message
  /// @throws TensorError naming the expected and the actual shape
  void check_images(const Tensor& images, std::string_view what = "images") const;
  /// Checks that a denoiser takes the latents.
  /// @param info facts of the denoiser; a channel count that is not known is not checked
  /// @param extra_channels channels that are concatenated behind the latents, such as 5 for inpainting
  /// @param name of the denoiser in the message
  /// @throws ConfigError naming in_channels or out_channels and both values
  void check_denoiser(const DenoiserInfo& info, int64_t extra_channels = 0,
                      std::string_view name = "unet") const;

  /// Computes the distribution of the latents of images.
  /// @param images `[B, in_channels, H, W]`, see `check_images`; on the device of the autoencoder
  /// @return in the dtype of the images, without a graph
  /// @throws TensorError as `check_images`
  LatentDistribution encode_distribution(const Tensor& images) const;
  /// Computes scaled latents: (mean + exp(logvar / 2) noise), scaled.
  /// @param distribution as `encode_distribution` returns it
  /// @param noise standard normal, shape of mean; not used and may be undefined if there is no logvar
  /// @return shape and dtype of mean, without a graph
  /// @throws TensorError if the noise has another shape
  /// @throws Error with `scale_by_std` before `measure_scale`
  Tensor sample(const LatentDistribution& distribution, const Tensor& noise) const;
  /// Computes the scaled mean of a distribution.
  /// @param distribution as `encode_distribution` returns it
  /// @return shape and dtype of mean, without a graph
  /// @throws Error with `scale_by_std` before `measure_scale`
  Tensor mode(const LatentDistribution& distribution) const;
  /// Encodes images and draws their latents.
  /// @param images as `encode_distribution` takes them
  /// @param generator source of the noise, on the device of the images; none uses the global generator
  /// @return scaled latents, as `sample` returns them
  Tensor encode(const Tensor& images, const std::optional<Generator>& generator = std::nullopt) const;
  /// Computes images from scaled latents.
  /// @param latents `[B, latent_channels, h, w]`, on the device of the autoencoder
  /// @return `[B, out_channels, h * factor, w * factor]` in the dtype of the latents, without a graph
  /// @throws Error with `scale_by_std` before `measure_scale`
  Tensor decode(const Tensor& latents) const;

  /// @return true if `scale_by_std` is set and `measure_scale` was not called yet
  bool needs_scale() const { return options_.scale_by_std && !scale_.defined(); }
  /// Sets the scaling factor to 1 / std of the latents of a batch. The host does not wait for a device.
  /// @param distribution of the first batch of a training
  /// @param noise as for `sample`
  void measure_scale(const LatentDistribution& distribution, const Tensor& noise);
  /// @return the measured scaling factor, 0-dim; undefined before `measure_scale` and without `scale_by_std`
  const Tensor& measured_scale() const { return scale_; }
  /// Restores a measured scaling factor when a training is resumed.
  /// @param scale 0-dim, on any device
  /// @throws TensorError for another shape; ConfigError without `scale_by_std`
  void set_measured_scale(const Tensor& scale);

  /// Computes the SHA-256 of the config and the weights. A cache of distributions is valid for one value.
  /// @return 64 hexadecimal digits
  std::string fingerprint() const;
  /// Writes the autoencoder's folder, with the measured scaling factor in its config if there is one.
  /// @param folder created if it does not exist
  /// @throws FileError if a file cannot be written
  void save_pretrained(const std::filesystem::path& folder) const;

 private:
  /// Values that both classes have.
  struct Facts {
    int64_t in_channels = 0, latent_channels = 0, factor = 1;
    double scaling_factor = 1.0;
    std::optional<double> shift_factor = std::nullopt;
    bool force_upcast = false;
  };

  torch::nn::Module& module() const;
  void take_module();
  std::string config_json() const;
  Tensor run(const Tensor& input, Tensor (*kl)(const AutoencoderKLImpl&, const Tensor&),
             Tensor (*vq)(const VQModelImpl&, const Tensor&)) const;
  Tensor draw(const LatentDistribution& distribution, const Tensor& noise) const;
  Tensor scaled(const Tensor& latents) const;
  void require_scale() const;

  std::variant<AutoencoderKL, VQModel> model_;
  LatentEncoderOptions options_;
  Facts facts_;
  DeviceTable latents_mean_, latents_std_;  // [1, C, 1, 1] float64; undefined without them
  Tensor scale_;                            // 0-dim; undefined: not measured
};

}  // namespace diffusers
