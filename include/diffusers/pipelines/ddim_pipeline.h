#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// The arguments of a `DDIMPipeline` call, in Python's order and with Python's defaults.
struct DDIMPipelineOptions {
  int64_t batch_size = 1;                             ///< number of images, at least 1
  std::optional<Generator> generator = std::nullopt;  ///< none: the global generator of the device
  double eta = 0.0;                  ///< 0: deterministic, 1: as much noise as DDPM; outside [0, 1] warns
  int64_t num_inference_steps = 50;  ///< 1 to the scheduler's num_train_timesteps
  /// Whether the noise is derived from the clipped prediction of x_0; none: false.
  std::optional<bool> use_clipped_model_output = std::nullopt;
  StepEndCallback callback_on_step_end = {};  ///< called after each step
};

/// Unconditional image generation in few steps (Song et al. 2021; Python: `DDIMPipeline`).
///
/// The model is shared, not copied; the scheduler becomes a `DDIMScheduler` of the same config. Sampling runs
/// without gradients and in eval mode, and then gives the model its mode back. With a CPU generator the
/// images equal Python's for the same seed. Loading, saving, `to`, `from_pipe` and the scheduler are in
/// `DiffusionPipeline` and `TypedPipeline`.
class DDIMPipeline : public TypedPipeline<DDIMPipeline> {
 public:
  /// The components: unet (UNet2DModel) and scheduler.
  static const PipelineSpec& spec();
  /// @param unet the model, which predicts for samples of its `sample_size`
  /// @param scheduler a scheduler whose config a `DDIMScheduler` can take, such as the `DDPMScheduler` of the
  /// training
  /// @throws ConfigError if the model is empty or has no sample_size, or if the scheduler's config does not
  /// fit
  DDIMPipeline(const UNet2DModel& unet, const Scheduler& scheduler);
  /// @param components "unet" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit DDIMPipeline(PipelineComponents components);

  /// Draws images.
  /// @return images `[batch_size, in_channels, sample_size, sample_size]` in [0, 1]
  /// @throws ConfigError if batch_size or num_inference_steps is not positive, or if there are more steps
  ///   than the scheduler was trained with
  ImagePipelineOutput operator()(const DDIMPipelineOptions& options = {});

  /// The model.
  UNet2DModel& unet();
};

}  // namespace diffusers
