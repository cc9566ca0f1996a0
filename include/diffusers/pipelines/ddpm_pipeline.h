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
  std::optional<Generator> generator = std::nullopt;  ///< nullopt: global generator of the device
  int64_t num_inference_steps = 1000;                 ///< number of steps, 1 to num_train_timesteps
  StepEndCallback callback_on_step_end = {};          ///< called after each step; empty: none
};

/// Unconditional image generation: Gaussian noise, then one scheduler step for each timestep (Ho et al. 2020;
/// Python: `DDPMPipeline`).
///
/// The model is shared, not copied. The scheduler is copied. Sampling runs without gradients and in eval
/// mode, and restores the mode of the model afterwards. With a CPU generator the images equal Python's for
/// the same seed. Loading, saving, `to`, `from_pipe` and the scheduler are in `DiffusionPipeline` and
/// `TypedPipeline`.
class DDPMPipeline : public TypedPipeline<DDPMPipeline> {
 public:
  /// @return the components: unet (UNet2DModel) and scheduler
  static const PipelineSpec& spec();
  /// Makes a pipeline from a model and a scheduler.
  /// @param unet the model; its `sample_size` is the size of the images
  /// @param scheduler any scheduler whose `step` requires only the model output, usually a `DDPMScheduler`
  /// @throws ConfigError if the model is empty or has no sample_size
  DDPMPipeline(const UNet2DModel& unet, const Scheduler& scheduler);
  /// Makes a pipeline from named components.
  /// @param components "unet" and "scheduler"
  /// @throws ConfigError naming the component that is missing, empty or of another class
  explicit DDPMPipeline(PipelineComponents components);

  /// Generates images.
  /// @param options the arguments of the call
  /// @return images `[batch_size, in_channels, sample_size, sample_size]` in [0, 1]
  /// @throws ConfigError if batch_size or num_inference_steps is not positive, or if there are more steps
  ///   than the scheduler was trained with
  ImagePipelineOutput operator()(const DDPMPipelineOptions& options = {});

  /// @return the model, shared
  UNet2DModel& unet();
};

}  // namespace diffusers
