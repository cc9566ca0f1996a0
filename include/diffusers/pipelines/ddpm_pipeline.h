#pragma once

#include <cstdint>
#include <optional>

#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

/// The arguments of a `DDPMPipeline` call, in Python's order and with Python's defaults.
struct DDPMPipelineOptions {
  int64_t batch_size = 1;                             ///< number of images, at least 1
  std::optional<Generator> generator = std::nullopt;  ///< none: the global generator of the device
  int64_t num_inference_steps = 1000;                 ///< 1 to the scheduler's num_train_timesteps
  StepEndCallback callback_on_step_end = {};          ///< called after each step
};

/// Unconditional image generation: Gaussian noise, then one scheduler step for each timestep (Ho et al. 2020;
/// Python: `DDPMPipeline`).
///
/// The model is shared, not copied; the scheduler is copied. Sampling runs without gradients and in eval
/// mode, and then gives the model its mode back. With a CPU generator the images equal Python's for the same
/// seed. Loading, saving, `to`, `from_pipe` and the scheduler are in `DiffusionPipeline` and `TypedPipeline`.
class DDPMPipeline : public TypedPipeline<DDPMPipeline> {
 public:
  /// The components: unet (UNet2DModel) and scheduler.
  static const PipelineSpec& spec();
  /// @param unet the model, which predicts for samples of its `sample_size`
  /// @param scheduler any scheduler whose `step` needs no more than the model output, usually a
  /// `DDPMScheduler`
  /// @throws ConfigError if the model is empty or has no sample_size
  DDPMPipeline(const UNet2DModel& unet, const Scheduler& scheduler);
  /// @param components "unet" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit DDPMPipeline(PipelineComponents components);

  /// Draws images.
  /// @return images `[batch_size, in_channels, sample_size, sample_size]` in [0, 1]
  /// @throws ConfigError if batch_size or num_inference_steps is not positive, or if there are more steps
  ///   than the scheduler was trained with
  ImagePipelineOutput operator()(const DDPMPipelineOptions& options = {});

  /// The model.
  UNet2DModel& unet();
};

}  // namespace diffusers
