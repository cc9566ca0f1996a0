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

/// The arguments of a `DDPMPipeline` call, in Python's order and with Python's defaults.
struct DDPMPipelineOptions {
  int64_t batch_size = 1;
  std::optional<Generator> generator = std::nullopt;
  int64_t num_inference_steps = 1000;
  StepEndCallback callback_on_step_end = {};
};

/// Unconditional image generation: Gaussian noise, then one scheduler step for each timestep (Python:
/// `DDPMPipeline`).
///
/// The model is shared, not copied; the scheduler is copied. Sampling runs without gradients and in eval
/// mode, and leaves the model in the mode in which it found it. With a CPU generator the images are those of
/// Python for the same seed.
class DDPMPipeline {
 public:
  /// @param scheduler any scheduler whose `step` needs no more than the model output, usually a
  /// `DDPMScheduler`
  /// @throws ConfigError if the model is empty or has no sample_size
  DDPMPipeline(const UNet2DModel& unet, const Scheduler& scheduler);
  DDPMPipeline(DDPMPipeline&&) noexcept;
  DDPMPipeline& operator=(DDPMPipeline&&) noexcept;
  ~DDPMPipeline();

  /// @return images `[batch_size, in_channels, sample_size, sample_size]` in [0, 1]
  /// @throws ConfigError if batch_size or num_inference_steps is not positive, or there are more steps than
  /// the scheduler
  ///         was trained with
  ImagePipelineOutput operator()(const DDPMPipelineOptions& options = {});

  /// Reads a folder that Python or `save_pretrained` wrote: model_index.json, unet/, scheduler/.
  /// @throws FileError if the folder, its index or a component is missing or of another class, naming it
  static DDPMPipeline from_pretrained(const std::filesystem::path& folder,
                                      const PipelineLoadOptions& options = {});
  /// Writes model_index.json, unet/ and scheduler/ as Python does; the folder is made if need be.
  void save_pretrained(const std::filesystem::path& folder) const;

  UNet2DModel& unet();
  /// The pipeline's own scheduler. `set_scheduler` replaces it by one of another class or config.
  Scheduler& scheduler();
  /// Replaces the scheduler by a copy of the given one (Python: `pipeline.scheduler = ...`).
  void set_scheduler(const Scheduler& scheduler);
  void set_progress_bar_config(const ProgressBarConfig& config);

 private:
  explicit DDPMPipeline(std::unique_ptr<UnconditionalPipeline> parts);
  std::unique_ptr<UnconditionalPipeline> parts_;
};

}  // namespace diffusers
