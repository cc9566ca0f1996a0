#pragma once

// What DDPMPipeline and DDIMPipeline have in common: a UNet2DModel, a scheduler, the folder that holds both,
// and the loop.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string_view>

#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/schedulers/scheduler.h>

namespace diffusers {

struct UnconditionalPipeline {
  UNet2DModel unet;
  std::unique_ptr<Scheduler> scheduler;
  ProgressBarConfig progress_bar = {};

  /// The part of a call's options that both pipelines have.
  struct CallOptions {
    int64_t batch_size;
    std::optional<Generator> generator;
    int64_t num_inference_steps;
    const StepEndCallback& callback_on_step_end;
  };

  /// @throws ConfigError if the model is empty or has no sample_size
  static std::unique_ptr<UnconditionalPipeline> make(const UNet2DModel& unet,
                                                     std::unique_ptr<Scheduler> scheduler,
                                                     std::string_view class_name);
  static std::unique_ptr<UnconditionalPipeline> load(const std::filesystem::path& folder,
                                                     const PipelineLoadOptions& options,
                                                     std::string_view class_name);
  void save(const std::filesystem::path& folder, std::string_view class_name) const;

  /// @param step_options passed to every `step`, with the generator of `options`
  ImagePipelineOutput sample(const CallOptions& options, StepOptions step_options);
};

}  // namespace diffusers
