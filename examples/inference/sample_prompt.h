#pragma once

// Images of the Stable Diffusion pipelines, for the program sample.

#include <diffusers/core/tensor.h>
#include <diffusers/pipelines/diffusion_pipeline.h>

#include "sample_flags.h"

/// Returns true for the classes whose folders `sample_with_prompt` takes.
bool takes_prompt(const std::string& class_name);

/// Draws images with the pipeline that the flags and the models ask for: text to image, image to image,
/// inpainting or ControlNet.
/// @param loaded of a class that `takes_prompt`
/// @return `[B, C, H, W]` in [0, 1]
/// @throws diffusers::ConfigError naming the flags that do not fit the models
diffusers::Tensor sample_with_prompt(diffusers::DiffusionPipeline& loaded, const SampleSettings& settings);
