#pragma once

// Common parts of DDPMPipeline and DDIMPipeline.

#include <cstdint>
#include <memory>
#include <optional>

#include <diffusers/models/unet_2d.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>

namespace diffusers {
inline namespace internal {

/// Returns the spec of a class with the components "unet" and "scheduler".
PipelineSpec unconditional_spec(const char* class_name,
                                std::unique_ptr<Scheduler> (*adapt_scheduler)(const Scheduler&) = nullptr);

/// Returns `{H, W}` of the images.
/// @throws ConfigError if the model has no sample_size
std::pair<int64_t, int64_t> unconditional_size(DiffusionPipeline& pipeline);

/// The options of a call that both pipelines have.
struct UnconditionalCall {
  int64_t batch_size;
  const std::optional<Generator>& generator;
  int64_t num_inference_steps;
  const StepEndCallback& callback_on_step_end;
};

/// Samples images.
/// @param step_options passed to every `step`, with the generator of `call`
/// @throws ConfigError if a number is not positive
ImagePipelineOutput sample_unconditional(DiffusionPipeline& pipeline, const UnconditionalCall& call,
                                         StepOptions step_options = {});

}  // namespace internal
}  // namespace diffusers
