#pragma once

// Previews that end early after a request to stop.

#include <functional>
#include <string>

#include <diffusers/io/image.h>
#include <diffusers/pipelines/pipeline.h>
#include <diffusers/training/trainer.h>

/// Thrown while a preview is drawn, after a request to stop.
struct PreviewStopped {};

/// Makes a callback for the denoising steps of a pipeline. It throws PreviewStopped if `must_stop` returns
/// true. Without `must_stop` it does nothing.
diffusers::StepEndCallback stop_sampling_if(std::function<bool()> must_stop);

/// Draws images and logs them. Nothing is logged if `draw` throws PreviewStopped, because the training then
/// has a checkpoint to save.
/// @param draw returns images `[N, C, H, W]` in [0, 1]
void log_unless_stopped(const diffusers::PreviewContext& at, const std::string& name,
                        const std::function<diffusers::Tensor()>& draw,
                        const diffusers::ImageGridOptions& options);
