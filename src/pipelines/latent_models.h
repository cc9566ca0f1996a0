#pragma once

// The models of a latent diffusion pipeline, whatever their classes: an AutoencoderKL or a VQModel, a
// UNet2DModel or a UNet2DConditionModel.

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <diffusers/core/random.h>
#include <diffusers/core/tensor.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/models/denoiser.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>

namespace diffusers {
inline namespace internal {

/// An autoencoder and the scaling of its latents.
class LatentAutoencoder {
 public:
  /// @param component an AutoencoderKL or a VQModel, shared
  explicit LatentAutoencoder(const PipelineComponent& component);

  /// Channels of the latents.
  int64_t latent_channels() const { return latent_channels_; }
  /// Side of an image over that of its latents.
  int64_t factor() const { return factor_; }
  /// Scaled latents of images `[B, C, H, W]` in [-1, 1]: drawn from the posterior, or its mean.
  Tensor encode(const Tensor& images, bool is_mean, const std::optional<Generator>& generator) const;
  /// Images in [0, 1] of scaled latents, or the latents.
  ImagePipelineOutput decode(const Tensor& latents, OutputType output_type) const;

 private:
  Tensor scaled(const Tensor& latents) const;
  Tensor unscaled(const Tensor& latents) const;
  at::TensorOptions options() const;

  PipelineComponent component_;
  bool is_kl_;
  int64_t latent_channels_ = 0;
  int64_t factor_ = 1;
  double scaling_factor_ = 1.0;
  std::optional<double> shift_factor_;
  Tensor mean_, std_;  // [1, C, 1, 1] on the device of the model; undefined without them
};

/// A UNet for latents.
struct LatentUNet {
  /// @param component a UNet2DModel or a UNet2DConditionModel, shared
  explicit LatentUNet(const PipelineComponent& component);

  /// `{height, width}` of the latents that it was trained with.
  /// @throws ConfigError naming the class of the pipeline if there is no sample_size
  std::pair<int64_t, int64_t> sample_size(const DiffusionPipeline& pipeline) const;

  Denoiser denoise;
  DenoiserInfo info;
  at::TensorOptions options;  ///< dtype and device
  std::vector<int64_t> size;  ///< sample_size of the config; empty: none
};

/// The part of a call that the latent pipelines share: timesteps, the loop and the decoder.
struct LatentSampling {
  int64_t num_inference_steps;
  double eta;
  const std::optional<Generator>& generator;
  OutputType output_type;
  const StepEndCallback& callback_on_step_end;
};

/// Noise to start from, standard normal.
Tensor latent_noise(const LatentUNet& unet, at::IntArrayRef shape, const std::optional<Generator>& generator);

/// Denoises and decodes.
/// @param noise as `latent_noise` gives it
/// @throws ConfigError if the number of steps is not positive
ImagePipelineOutput sample_latents(DiffusionPipeline& pipeline, const LatentAutoencoder& autoencoder,
                                   const Denoiser& denoiser, const Conditioning& conditioning,
                                   const Tensor& noise, const LatentSampling& call);

}  // namespace internal
}  // namespace diffusers
