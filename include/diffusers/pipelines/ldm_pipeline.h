#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/core/enum_choice.h>
#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// The arguments of an `LDMPipeline` call, in Python's order and with Python's defaults.
struct LDMPipelineOptions {
  int64_t batch_size = 1;                                ///< number of images, at least 1
  std::optional<Generator> generator = std::nullopt;     ///< none: the global generator of the device
  double eta = 0.0;                                      ///< for DDIM and TCD; other schedulers do not use it
  int64_t num_inference_steps = 50;                      ///< number of steps, at least 1
  EnumChoice<OutputType> output_type = OutputType::kPt;  ///< "pt": images, "latent": latents
  StepEndCallback callback_on_step_end = {};             ///< called after each step with the latents
};

/// Unconditional latent diffusion: Gaussian noise, one scheduler step for each timestep, then the decoder
/// (Rombach et al. 2022; Python: `LDMPipeline`).
///
/// The models are shared, not copied; the scheduler is copied. Sampling runs without gradients and in eval
/// mode, and then gives the models their modes back. With a CPU generator the images equal Python's for the
/// same seed. A scheduler that adds noise draws it from the generator as well; Python draws that noise from
/// the global generator.
class LDMPipeline : public TypedPipeline<LDMPipeline> {
 public:
  /// The components: vqvae (VQModel or AutoencoderKL), unet (UNet2DModel) and scheduler.
  /// @return the spec
  static const PipelineSpec& spec();
  /// @param vqvae decodes the latents
  /// @param unet predicts for latents of its `sample_size`
  /// @param scheduler usually a DDIMScheduler
  /// @throws ConfigError if a model is empty, or if the UNet has no sample_size
  LDMPipeline(const VQModel& vqvae, const UNet2DModel& unet, const Scheduler& scheduler);
  /// @param vae decodes the latents, as the component "vqvae"
  /// @param unet as above
  /// @param scheduler as above
  /// @throws ConfigError as above
  LDMPipeline(const AutoencoderKL& vae, const UNet2DModel& unet, const Scheduler& scheduler);
  /// @param components "vqvae", "unet" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit LDMPipeline(PipelineComponents components);

  /// Draws images.
  /// @param options see LDMPipelineOptions
  /// @return images `[batch_size, C, H, W]` in [0, 1], or their latents
  /// @throws ConfigError if batch_size or num_inference_steps is not positive
  ImagePipelineOutput operator()(const LDMPipelineOptions& options = {});

  /// @return the model
  UNet2DModel& unet();
};

}  // namespace diffusers
