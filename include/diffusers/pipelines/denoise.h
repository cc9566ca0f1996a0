#pragma once

#include <cstdint>

#include <diffusers/core/tensor.h>
#include <diffusers/models/conditioning.h>
#include <diffusers/pipelines/diffusion_pipeline.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/pipelines/sampling_loop.h>

namespace diffusers {

/// Runs `sampling_loop` as a pipeline's call does: with the scheduler of the pipeline, its progress bar and
/// the callback of the caller. The timesteps of the scheduler have been set.
/// @param pipeline gives the scheduler and the settings of the progress bar
/// @param denoiser a model, for example of `make_denoiser` or `classifier_free_guidance`
/// @param conditioning passed to each call of `denoiser`
/// @param sample starting point: noise times init_noise_sigma(), or a noisy sample with `options.start_step`
/// @param num_inference_steps number of steps for the progress bar
/// @param callback_on_step_end called after each step; empty: none
/// @param options of the loop. `options.callback` is called before `callback_on_step_end`, so that a pipeline
///   can change the sample first, as an inpainting pipeline does.
/// @return the sample after the last step
/// @throws TensorError if a callback leaves a sample of another shape, dtype or device; errors of
///   `sampling_loop`
Tensor denoise(DiffusionPipeline& pipeline, const Denoiser& denoiser, const Conditioning& conditioning,
               const Tensor& sample, int64_t num_inference_steps,
               const StepEndCallback& callback_on_step_end = {}, SamplingLoopOptions options = {});

}  // namespace diffusers
