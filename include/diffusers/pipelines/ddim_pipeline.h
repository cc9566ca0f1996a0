#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>

#include <diffusers/models/fwd.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

struct UnconditionalPipeline;

/// The arguments of a `DDIMPipeline` call, in Python's order and with Python's defaults.
struct DDIMPipelineOptions {
  int64_t batch_size = 1;
  std::optional<Generator> generator = std::nullopt;
  double eta = 0.0;  ///< 0 is the deterministic sampler, 1 adds as much noise as DDPM; outside [0, 1] warns
  int64_t num_inference_steps = 50;
  std::optional<bool> use_clipped_model_output = std::nullopt;
  StepEndCallback callback_on_step_end = {};
};

/// Unconditional image generation in few steps (Song et al. 2021; Python: `DDIMPipeline`).
///
/// The model is shared, not copied; the scheduler becomes a `DDIMScheduler` of the same config. Sampling runs
/// without gradients and in eval mode, and leaves the model in the mode in which it found it. With a CPU
/// generator the images are those of Python for the same seed.
class DDIMPipeline {
 public:
  /// @param scheduler a scheduler whose config a `DDIMScheduler` can take, such as the `DDPMScheduler` of the
  /// training
  /// @throws ConfigError if the model is empty or has no sample_size or the scheduler's config does not fit
  DDIMPipeline(const UNet2DModel& unet, const Scheduler& scheduler);
  DDIMPipeline(DDIMPipeline&&) noexcept;
  DDIMPipeline& operator=(DDIMPipeline&&) noexcept;
  ~DDIMPipeline();

  /// @return images `[batch_size, in_channels, sample_size, sample_size]` in [0, 1]
  /// @throws ConfigError if batch_size or num_inference_steps is not positive, or there are more steps than
  /// the scheduler
  ///         was trained with
  ImagePipelineOutput operator()(const DDIMPipelineOptions& options = {});

  /// Reads a folder that Python or `save_pretrained` wrote: model_index.json, unet/, scheduler/. A DDPM
  /// pipeline's folder will do.
  /// @throws FileError if the folder, its index or a component is missing or of another class, naming it
  static DDIMPipeline from_pretrained(const std::filesystem::path& folder,
                                      const PipelineLoadOptions& options = {});
  /// Writes model_index.json, unet/ and scheduler/ as Python does; the folder is made if need be.
  void save_pretrained(const std::filesystem::path& folder) const;

  UNet2DModel& unet();
  /// The pipeline's own scheduler. `set_scheduler` replaces it by one of another config.
  Scheduler& scheduler();
  /// Replaces the scheduler (Python: `pipeline.scheduler = ...`) by a `DDIMScheduler` of the given one's
  /// config.
  /// @throws ConfigError if the config does not fit; the pipeline then keeps the scheduler that it has
  void set_scheduler(const Scheduler& scheduler);
  void set_progress_bar_config(const ProgressBarConfig& config);

 private:
  explicit DDIMPipeline(std::unique_ptr<UnconditionalPipeline> parts);
  std::unique_ptr<UnconditionalPipeline> parts_;
};

}  // namespace diffusers
