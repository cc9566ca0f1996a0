#pragma once

#include <cstdint>

#include <diffusers/core/tensor.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/pipelines/sampling_loop.h>

namespace diffusers {

/// Runs `sampling_loop` for a pipeline's call: with the pipeline's scheduler, its progress bar and the
/// caller's callback. Call `set_timesteps` of the scheduler first.
/// @param pipeline has the scheduler and the settings of the progress bar
/// @param denoiser the model, for example from `make_denoiser` or `classifier_free_guidance`
/// @param conditioning passed to each call of `denoiser`
/// @param sample starting point: noise times init_noise_sigma(), or a noisy sample with `options.start_step`
/// @param num_inference_steps number of steps for the progress bar
/// @param callback_on_step_end called after each step; empty: none
/// @param options options of the loop. `options.callback` is called before `callback_on_step_end`, so a
///   pipeline can change the sample first, for example for inpainting.
/// @return the sample after the last step
/// @throws TensorError if a callback sets a sample of another shape, dtype or device; or as `sampling_loop`
/// @throws ConfigError as `sampling_loop`
Tensor denoise(DiffusionPipeline& pipeline, const Denoiser& denoiser, const Conditioning& conditioning,
               const Tensor& sample, int64_t num_inference_steps,
               const StepEndCallback& callback_on_step_end = {}, SamplingLoopOptions options = {});

}  // namespace diffusers
